"""What the real programs of the benchmarks work on, made here so that nothing has to be fetched.

    inputs.py FOLDER [SIZE]      SIZE is 1 for `make bench`; the quick mode takes less

Every file follows from a fixed seed and SIZE alone, so two machines measure the same work. A file that is there
already, made by the same version of this script at the same size, is left alone (FOLDER/stamp says which that was).

The inputs are of the kind that the program is used for: a page description with text, paths and pictures for
ghostscript; a schema with indices, updates and deletes for sqlite; records with attributes for xmllint; code with
structs, loops and calls for the compilers; job-shop scheduling and bit-vector equations for z3; text, trees, tables
and closures for the scripting languages; strings, hashes, lists and sorted sets of many sizes for redis, some of them
replaced, grown and deleted.
"""
import hashlib
import pathlib
import random
import sys

WORDS = (
    "allocator arena block bucket budget cache class commit core count cycle delay edge empty fault field free full "
    "grow guard heap hole index kernel large layer limit line list lock magazine map mean medium merge move node "
    "number offset order owner page part peak place pool record refill region reserve ring root run sample shard "
    "size slot small space split stack state table tail thread time trace tree unit value wait word zero"
).split()


def text(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def scaled(size, count):
    return max(1, int(size * count))


def redis_load(path, size):
    """Commands in the protocol of redis, for `redis-cli --pipe`."""
    rng = random.Random(1)

    def command(*parts):
        parts = [p if isinstance(p, bytes) else str(p).encode() for p in parts]
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)

    def value():
        kind = rng.random()
        if kind < 0.5:
            length = rng.randint(8, 100)
        elif kind < 0.85:
            length = rng.randint(100, 1200)
        elif kind < 0.99:
            length = rng.randint(1200, 6000)
        else:
            length = rng.randint(6000, 60000)
        return b"v" * length

    keys = scaled(size, 30000)
    with open(path, "wb") as f:
        for _ in range(scaled(size, 240000)):
            key, kind = rng.randrange(keys), rng.random()
            if kind < 0.30:
                f.write(command("SET", f"key:{key}", value()))
            elif kind < 0.50:
                f.write(command("GET", f"key:{key}"))
            elif kind < 0.60:
                f.write(command("APPEND", f"key:{key}", b"a" * rng.randint(1, 100)))
            elif kind < 0.70:
                f.write(command("DEL", f"key:{key}"))
            elif kind < 0.80:
                f.write(
                    command("HSET", f"hash:{key // 16}", f"field:{rng.randrange(200)}", text(rng, rng.randint(1, 12)))
                )
            elif kind < 0.88:
                f.write(command("LPUSH", f"list:{key // 16}", text(rng, rng.randint(1, 20))))
            elif kind < 0.92:
                f.write(command("RPOP", f"list:{key // 16}"))
            elif kind < 0.97:
                f.write(command("ZADD", f"zset:{key // 64}", rng.randrange(10**6), f"member:{rng.randrange(10**5)}"))
            else:
                f.write(command("SADD", f"set:{key // 64}", text(rng, 2)))


def ghostscript_page(path, size):
    rng = random.Random(2)
    with open(path, "w") as f:
        f.write("%!PS-Adobe-3.0\n/F { findfont exch scalefont setfont } bind def\n")
        f.write(
            "/tree { dup 0 eq { pop } { gsave 0 60 rlineto currentpoint stroke translate 0.72 dup scale 0 0 moveto\n"
            "  dup 1 sub 25 rotate 0 0 moveto tree -50 rotate 0 0 moveto 1 sub tree grestore } ifelse } def\n"
        )
        fonts = ["Times-Roman", "Helvetica", "Courier-Bold", "Times-Italic"]
        for page in range(scaled(size, 24)):
            f.write(f"%%Page: {page + 1} {page + 1}\n")
            for line in range(60):
                f.write(
                    f"{rng.randint(7, 12)} /{rng.choice(fonts)} F {rng.random():.2f} setgray 40 {760 - line * 12} moveto "
                    f"({text(rng, 12)}) show\n"
                )
            for _ in range(120):
                points = " ".join(f"{rng.randint(0, 600)} {rng.randint(0, 800)}" for _ in range(3))
                f.write(
                    f"{rng.random():.2f} {rng.random():.2f} {rng.random():.2f} setrgbcolor newpath "
                    f"{rng.randint(0, 600)} {rng.randint(0, 800)} moveto {points} curveto "
                    f"{'fill' if rng.random() < 0.3 else 'stroke'}\n"
                )
            f.write("gsave 300 100 translate 0 setgray 0.5 setlinewidth 0 0 moveto 10 tree grestore\n")
            data = "".join(f"{rng.randrange(256):02x}" for _ in range(64 * 64 * 3))
            f.write(
                "gsave 60 60 translate 200 200 scale 64 64 8 [64 0 0 -64 0 64] "
                f"{{currentfile 192 string readhexstring pop}} false 3 colorimage\n{data}\ngrestore\n"
            )
            f.write(
                "<< /ShadingType 2 /ColorSpace /DeviceRGB /Coords [0 0 600 800] "
                "/Function << /FunctionType 2 /Domain [0 1] /C0 [1 0.9 0.9] /C1 [0.2 0.3 0.9] /N 1.5 >> >> pop\nshowpage\n"
            )
        f.write("%%EOF\n")


def sqlite_script(path, size):
    rng = random.Random(3)
    customers = scaled(size, 8000)
    with open(path, "w") as f:
        f.write(
            "PRAGMA journal_mode=memory;\n"
            "CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city TEXT, note TEXT);\n"
            "CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INT, article TEXT, price REAL, blurb TEXT);\n"
            "CREATE INDEX customer_name ON customer(name);\n"
            "CREATE INDEX purchase_customer ON purchase(customer);\n"
            "CREATE INDEX purchase_article ON purchase(article, price);\nBEGIN;\n"
        )
        for i in range(customers):
            f.write(
                f"INSERT INTO customer VALUES({i},'{text(rng, 2)}','{rng.choice(WORDS)}','{text(rng, rng.randint(1, 60))}');\n"
            )
        for i in range(customers * 6):
            f.write(
                f"INSERT INTO purchase VALUES({i},{rng.randrange(customers)},'{text(rng, 2)}',{rng.random() * 100:.2f},"
                f"'{text(rng, rng.randint(1, 24))}');\n"
            )
        f.write("COMMIT;\n")
        f.write(
            "UPDATE customer SET note = note || ' ' || note WHERE id % 3 = 0;\n"
            "DELETE FROM purchase WHERE id % 4 = 1;\n"
            "SELECT city, count(*), sum(price) FROM customer JOIN purchase ON customer = customer.id GROUP BY city ORDER BY 3;\n"
            "SELECT article, avg(price), max(length(blurb)) FROM purchase GROUP BY article ORDER BY 2 DESC LIMIT 50;\n"
            "CREATE TABLE summary AS SELECT customer, group_concat(article, ', ') a, sum(price) p FROM purchase GROUP BY 1;\n"
            "INSERT INTO purchase SELECT id + 10000000, customer, article, price / 2, blurb || article FROM purchase;\n"
            "SELECT count(*), sum(length(a)) FROM summary;\n"
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)\n"
            "  SELECT count(DISTINCT printf('%d-%s', i % 997, hex(i * 2654435761 % 65536))) FROM n;\n"
            "SELECT name, count(*) FROM customer c JOIN purchase p ON p.customer = c.id WHERE p.price > 50 GROUP BY name\n"
            "  ORDER BY count(*) DESC, name LIMIT 20;\n"
            "VACUUM;\n"
        )


def xml_document(path, size):
    rng = random.Random(4)
    with open(path, "w") as f:
        f.write("<?xml version='1.0'?>\n<store>\n")
        for i in range(scaled(size, 55000)):
            f.write(
                f"<item id='i{i}' kind='{rng.choice(WORDS)}' stock='{rng.randrange(100)}'><name>{text(rng, 3)}</name>"
                f"<price currency='EUR'>{rng.random() * 100:.2f}</price><tags>"
            )
            f.write("".join(f"<tag>{rng.choice(WORDS)}</tag>" for _ in range(rng.randint(0, 6))))
            f.write(f"</tags><text>{text(rng, rng.randint(2, 50))}</text></item>\n")
        f.write("</store>\n")


def c_program(path, size):
    rng = random.Random(5)
    functions = scaled(size, 48)
    with open(path, "w") as f:
        f.write(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <stdint.h>\n#include <math.h>\n"
        )
        for i in range(functions):
            fields = "".join(
                f"    {rng.choice(['int', 'double', 'char *', 'uint64_t'])} {w}_{k};\n"
                for k, w in enumerate(rng.sample(WORDS, 8))
            )
            f.write(f"typedef struct s{i} {{\n    long weight;\n    struct s{i} *next;\n{fields}}} s{i};\n")
            f.write(
                f"static long walk{i}(const s{i} *s, long seed)\n{{\n    long sum = seed;\n"
                f"    for (; s; s = s->next) sum = sum * {rng.randint(3, 99)} + s->weight;\n    return sum;\n}}\n"
            )
            f.write(
                f"long f{i}(long a, long b, long *out, int n)\n{{\n    s{i} node[{rng.randint(2, 9)}] = {{{{.weight = a}}}};\n"
                "    node[0].next = &node[1];\n    double x = (double)a;\n"
            )
            for k in range(rng.randint(8, 24)):
                kind = rng.randrange(5)
                c = rng.randint(2, 1000)
                if kind == 0:
                    f.write(f"    for (int i = 0; i < n; i++) out[i] += out[(i + {c}) % n] * {c} + (a ^ i);\n")
                elif kind == 1:
                    f.write(f"    if (a % {c} > b) a += b << {c % 13}; else b -= a / {c};\n")
                elif kind == 2:
                    f.write(
                        f"    switch (a & 7) {{ case 0: b += {c}; break; case 3: a = ~b; break; case 5: x *= {c}.5; break; "
                        f"default: out[{c} % n] ^= b; }}\n"
                    )
                elif kind == 3:
                    f.write(f"    x = sqrt(x * x + {c}) + (double)walk{i}(node, a + {c});\n")
                else:
                    f.write(
                        f"    while (b > {c}) {{ b = b / 3 + (long)(x / {c}); a ^= b; if (a == {c * 7}) break; }}\n"
                    )
            if i > 0:
                f.write(f"    if (n > {rng.randint(1, 50)}) b += f{rng.randrange(i)}(b, a, out, n - 1);\n")
            f.write(f"    return a + b + (long)x + walk{i}(node, b);\n}}\n")
        f.write("int main(int argc, char **argv)\n{\n    long out[64] = {0}, sum = 0;\n    (void)argv;\n")
        for i in range(functions):
            f.write(f"    sum += f{i}(argc, {i}, out, 64);\n")
        f.write('    printf("%ld\\n", sum);\n}\n')


def smt_problem(path, size):
    """Job-shop scheduling that has a solution, then one without, then a bit-vector identity."""
    rng = random.Random(6)
    jobs, machines = 8, 6
    with open(path, "w") as f:

        def shop(bound_factor):
            starts, length = {}, {}
            f.write("(push)\n")
            for j in range(jobs):
                order = rng.sample(range(machines), machines)
                for step, m in enumerate(order):
                    starts[j, m] = f"t{j}_{m}"
                    length[j, m] = rng.randint(1, 9)
                    f.write(f"(declare-const t{j}_{m} Int)\n(assert (>= t{j}_{m} 0))\n")
                    if step > 0:
                        before = order[step - 1]
                        f.write(f"(assert (>= t{j}_{m} (+ t{j}_{before} {length[j, before]})))\n")
            for m in range(machines):
                for a in range(jobs):
                    for b in range(a):
                        f.write(
                            f"(assert (or (>= t{a}_{m} (+ t{b}_{m} {length[b, m]})) "
                            f"(>= t{b}_{m} (+ t{a}_{m} {length[a, m]}))))\n"
                        )
            longest = max(
                max(sum(length[j, m] for m in range(machines)) for j in range(jobs)),
                max(sum(length[j, m] for j in range(jobs)) for m in range(machines)),
            )
            for s in starts:
                f.write(f"(assert (<= (+ {starts[s]} {length[s]}) {int(longest * bound_factor)}))\n")
            f.write("(check-sat)\n(pop)\n")

        for _ in range(scaled(size, 36)):
            shop(1.15)
        for i in range(scaled(size, 4)):
            f.write(
                "(push)\n(declare-const x (_ BitVec 9))\n(declare-const y (_ BitVec 9))\n"
                "(assert (not (= (bvmul (bvadd x y) (bvadd x y)) (bvadd (bvmul x x) (bvadd (bvmul (_ bv2 9) (bvmul x y)) "
                f"(bvmul y y))))))\n(assert (bvugt x (_ bv{i} 9)))\n(check-sat)\n(pop)\n"
            )


LUA = r"""
local n = SIZE
local function tree(d) if d == 0 then return {} end return {tree(d - 1), tree(d - 1)} end
local function count(t) return t[1] and 1 + count(t[1]) + count(t[2]) or 1 end
local total = 0
for i = 1, math.ceil(20 * n) do total = total + count(tree(14)) end
local seed = 42
local function random(m) seed = (seed * 1103515245 + 12345) % 2147483648; return seed % m end
local people = {}
for i = 1, math.floor(120000 * n) do
    people[i] = {name = "person" .. random(100000), age = random(90), tags = {random(5), random(7)}}
end
table.sort(people, function(a, b) if a.age ~= b.age then return a.age < b.age end return a.name < b.name end)
local groups = {}
for _, p in ipairs(people) do
    local key = p.age .. ":" .. p.tags[1]
    groups[key] = groups[key] or {}
    table.insert(groups[key], p.name:upper())
end
local parts = {}
for key, names in pairs(groups) do parts[#parts + 1] = key .. "=" .. table.concat(names, ",") end
table.sort(parts)
local text = table.concat(parts, "\n")
local words = 0
for w in text:gmatch("%u+%d+") do words = words + 1 end
local swapped = text:gsub("PERSON(%d+)", function(d) return d .. "p" end)
local makers = {}
for i = 1, math.floor(150000 * n) do local c = i; makers[i % 5000 + 1] = function() c = c + 1; return c end end
for _, f in ipairs(makers) do total = total + f() end
print(total, words, #swapped)
"""

RUBY = r"""
n = SIZE
Node = Struct.new(:left, :right)
def tree(d) = d == 0 ? Node.new : Node.new(tree(d - 1), tree(d - 1))
def count(t) = t.left ? 1 + count(t.left) + count(t.right) : 1
total = 0
(16 * n).ceil.times { total += count(tree(13)) }
rng = Random.new(7)
people = Array.new((110000 * n).to_i) { |i|
  {name: "person #{rng.rand(100000)} of #{i}", age: rng.rand(90), tags: [rng.rand(5)] * 3}
}
groups = people.group_by { |p| p[:age] }
text = groups.sort.map { |age, list| "#{age}: " + list.map { |p| p[:name].upcase }.sort.join(", ") }.join("\n")
words = text.scan(/[A-Z]+ \d+/).size
replaced = text.gsub(/PERSON (\d+)/) { "p#{$1.reverse}" }
lines = replaced.lines.map { |l| l.split(", ").map(&:strip).uniq.size }
big = (1..(700 * n).ceil).inject(:*).to_s.size
joined = (0...(60000 * n).to_i).map { |i| "x" * (i % 97) }.each_slice(100).map(&:join).join.size
puts [total, words, lines.sum, big, joined].inspect
"""

PYTHON = r"""
import json, re, collections, random
n = SIZE
rng = random.Random(9)
class Node:
    def __init__(self, left, right): self.left, self.right = left, right
def tree(d): return Node(tree(d - 1), tree(d - 1)) if d else Node(None, None)
def count(t): return 1 + count(t.left) + count(t.right) if t.left else 1
total = sum(count(tree(12)) for _ in range(max(1, int(14 * n))))
people = [{"name": f"person {rng.randrange(100000)}", "age": rng.randrange(90), "tags": [rng.randrange(5)] * 3,
           "note": "x" * rng.randrange(300)}
          for _ in range(int(45000 * n))]
data = json.loads(json.dumps(people))
groups = collections.defaultdict(list)
for p in sorted(data, key=lambda p: (p["age"], p["name"])): groups[p["age"]].append(p["name"].upper())
text = "\n".join(f"{age}: " + ", ".join(names) for age, names in groups.items())
words = len(re.findall(r"[A-Z]+ \d+", text))
swapped = re.sub(r"PERSON (\d+)", lambda m: m.group(1)[::-1], text)
arrays = [bytearray(rng.randrange(100, 20000)) for _ in range(int(6000 * n))]
for i in range(0, len(arrays), 3): arrays[i] += bytes(5000)
table = {(i, str(i)): [i] * (i % 20) for i in range(int(90000 * n))}
for key in list(table)[::2]: del table[key]
print(total, words, len(swapped), sum(map(len, arrays)), len(table))
"""


def script(source):
    def write(path, size):
        pathlib.Path(path).write_text(source.replace("SIZE", repr(size)))

    return write


FILES = {
    "redis.load": redis_load,
    "page.ps": ghostscript_page,
    "shop.sql": sqlite_script,
    "store.xml": xml_document,
    "program.c": c_program,
    "problem.smt2": smt_problem,
    "script.lua": script(LUA),
    "script.rb": script(RUBY),
    "script.py": script(PYTHON),
}


def make(folder, size):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = f"{hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()} {size}\n"
    marker = folder / "stamp"
    if marker.exists() and marker.read_text() == stamp and all((folder / name).exists() for name in FILES):
        return
    for name, write in FILES.items():
        write(folder / name, size)
    marker.write_text(stamp)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    make(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
