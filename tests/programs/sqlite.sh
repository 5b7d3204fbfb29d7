#!/bin/bash
# sqlite3 builds a database of more than 200 MB in memory, indexes it, changes it, asks it and checks it; every answer
# and
# the size equal on both allocators. Memory is what sqlite spends its time on here: 4.3 KiB blocks by the ten thousand.
#
# ROWS=n changes the size (default 400000, some 600 bytes each).
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=300

need sqlite3

rows=${ROWS:-400000}
cat >"$tmp/in/build.sql" <<END
PRAGMA threads = 2;
CREATE TABLE item (id INTEGER PRIMARY KEY, kind INTEGER, key TEXT, price REAL, body BLOB);
-- Content by a multiplicative generator: the same on every machine.
WITH RECURSIVE n(i, x) AS (
    SELECT 1, 12345
    UNION ALL
    SELECT i + 1, (x * 1103515245 + 12345) & 2147483647 FROM n WHERE i < $rows
)
INSERT INTO item
    SELECT i, x % 97, printf('%08x-%d', x, i), (x % 100000) / 100.0,
           CAST(substr(replace(hex(printf('%d:%d', x, i)), '3', 'abcdefgh-ijklmnop-qrstuvwxyz'), 1, 40 + x % 1100) AS BLOB)
    FROM n;
CREATE INDEX item_key ON item (key);
CREATE INDEX item_kind_price ON item (kind, price);
END
cat >"$tmp/in/use.sql" <<END
CREATE TABLE big AS SELECT id, zeroblob(id % 50000) AS z FROM item WHERE id % 1000 = 0;
SELECT 'rows', count(*), sum(id), sum(length(body)), round(sum(price), 2) FROM item;
SELECT 'kind', kind, count(*), round(avg(price), 4), min(key), max(key) FROM item GROUP BY kind ORDER BY kind;
SELECT 'key', key, id FROM item WHERE key BETWEEN '1' AND '101' ORDER BY key;
SELECT 'join', count(*), sum(a.id * b.id % 1000) FROM item a JOIN item b ON b.id = a.kind * 31 + 1 WHERE a.price > 500;
SELECT 'sorted', group_concat(k, '|') FROM (SELECT key AS k FROM item ORDER BY substr(body, 28, 9), id LIMIT 500 OFFSET $((rows / 2)));
SELECT 'window', sum(r) FROM (SELECT rank() OVER (PARTITION BY kind ORDER BY price, id) AS r FROM item);
SELECT 'long', length(group_concat(key)) FROM item;
SELECT 'distinct', count(DISTINCT substr(body, 28, 40)) FROM item;
UPDATE item SET body = body || key, price = price + 1 WHERE kind % 3 = 0;
DELETE FROM item WHERE kind % 5 = 1;
INSERT INTO item (kind, key, price, body) SELECT kind + 100, key || 'x', price, substr(body, 1, 30) FROM item WHERE kind = 2;
DROP INDEX item_key;
CREATE INDEX item_key ON item (kind, substr(key, 4));
SELECT 'after', count(*), sum(length(body)), round(sum(price), 2) FROM item;
CREATE VIRTUAL TABLE words USING fts5(t);
INSERT INTO words SELECT key || ' ' || kind || ' ' || replace(key, '-', ' ') FROM item WHERE id % 20 = 0;
SELECT 'fts', count(*) FROM words WHERE words MATCH '7';
SELECT 'json', sum(json_extract(json_object('a', json_array(id, kind)), '\$.a[1]')) FROM item WHERE id % 50 = 0;
PRAGMA integrity_check;
DROP TABLE big;
DELETE FROM item WHERE id % 2 = 0;
VACUUM;
SELECT 'vacuumed', count(*), sum(length(body)) FROM item;
PRAGMA page_count;
END
size="SELECT 'bytes', page_count * page_size FROM pragma_page_count, pragma_page_size;"

run_both database sqlite3 -batch -bail :memory: ".read $tmp/in/build.sql" "$size" ".read $tmp/in/use.sql"
loaded_in sqlite3

bytes=$(sed -n 's/^bytes|//p' "$tmp/database.acre.out")
say "database of $((bytes / 1000000)) MB"
[ "$rows" -lt 400000 ] || [ "$bytes" -ge 200000000 ] || fail "the database is smaller than 200 MB: $bytes bytes"
grep -x ok "$tmp/database.acre.out" >/dev/null || fail "integrity_check: $(grep -v '|' "$tmp/database.acre.out" | head -n 3)"
