// new_handler: every form of operator new and delete as the standard asks: bad_alloc or null, the handler called while
// memory is short, over-aligned types aligned, sized and array deletes.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "acre/acre.h"

static void check(bool holds, const char *text, int line)
{
    if (holds) return;
    std::fprintf(stderr, "new_handler.cpp:%d: does not hold: %s\n", line, text);
    std::_Exit(1);
}
#define CHECK(condition) check(condition, #condition, __LINE__)

// clang declares these two with -fsized-deallocation only.
void operator delete(void *block, std::size_t size) noexcept;
void operator delete(void *block, std::size_t size, std::align_val_t align) noexcept;

static volatile std::size_t too_much = PTRDIFF_MAX;
static int handler_calls;
static void *reserve;

struct alignas(256) Wide {
    char bytes[300];
    static int alive;
    Wide() { alive++; }
    ~Wide() { alive--; }
};
int Wide::alive;

struct Throws {
    Throws() { throw 42; }
    char bytes[5000];
};

template <typename Call> static bool throws_bad_alloc(Call call)
{
    try {
        call();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

static void gives_up_after_three()
{
    if (++handler_calls == 3) std::set_new_handler(nullptr);
}

static void frees_the_reserve()
{
    handler_calls++;
    acre_heap_set_budget(acre_heap_process(), 0);
    std::free(reserve);
    reserve = nullptr;
}

static void handler_throws() { throw std::bad_alloc(); }

int main()
{
    int *one = new int(7);
    CHECK(acre_owner(one) == acre_heap_process() && *one == 7);
    delete one;
    void *volatile nothing = ::operator new(0);
    CHECK(nothing != nullptr);
    ::operator delete(nothing);

    CHECK(throws_bad_alloc([] { ::operator delete(::operator new(too_much)); }));
    CHECK(throws_bad_alloc([] { ::operator delete[](::operator new[](too_much)); }));
    const auto wide = std::align_val_t(64);
    CHECK(throws_bad_alloc([=] { ::operator delete(::operator new(too_much, wide), wide); }));
    CHECK(throws_bad_alloc([] { delete[] new char[too_much]; }));
    CHECK(::operator new(too_much, std::nothrow) == nullptr);
    CHECK(::operator new[](too_much, std::nothrow) == nullptr);
    CHECK(::operator new(too_much, std::align_val_t(4096), std::nothrow) == nullptr);
    CHECK(::operator new[](too_much, std::align_val_t(4096), std::nothrow) == nullptr);

    std::set_new_handler(gives_up_after_three);
    CHECK(throws_bad_alloc([] { ::operator delete(::operator new(too_much)); }));
    CHECK(handler_calls == 3);
    handler_calls = 0;
    std::set_new_handler(gives_up_after_three);
    CHECK(::operator new(too_much, std::nothrow) == nullptr && handler_calls == 3);

    // The handler makes room: the call succeeds.
    handler_calls = 0;
    reserve = std::malloc(50 << 20);
    acre_heap_set_budget(acre_heap_process(), 60 << 20);
    std::set_new_handler(frees_the_reserve);
    void *big = ::operator new(40 << 20);
    CHECK(big != nullptr && handler_calls == 1);
    ::operator delete(big, std::size_t(40 << 20));

    std::set_new_handler(handler_throws);
    CHECK(throws_bad_alloc([] { ::operator delete(::operator new(too_much)); }));
    std::set_new_handler(nullptr);

    for (std::size_t align = 1; align <= (1 << 22); align *= 2)
        for (std::size_t size = 1; size <= 100000; size = size * 3 + 5) {
            void *p = ::operator new(size, std::align_val_t(align));
            void *q = ::operator new[](size, std::align_val_t(align), std::nothrow);
            CHECK(reinterpret_cast<std::uintptr_t>(p) % align == 0 && reinterpret_cast<std::uintptr_t>(q) % align == 0);
            ::operator delete(p, size, std::align_val_t(align));
            ::operator delete[](q, std::align_val_t(align), std::nothrow);
        }
    Wide *single = new Wide, *many = new Wide[100];
    CHECK(reinterpret_cast<std::uintptr_t>(single) % 256 == 0 && reinterpret_cast<std::uintptr_t>(many) % 256 == 0);
    CHECK(Wide::alive == 101);
    delete single;
    delete[] many;
    CHECK(Wide::alive == 0);

    // A constructor that throws has its memory freed: without that, this would hold 500 MB.
    for (int i = 0; i < 100000; i++) {
        try {
            delete new Throws;
            CHECK(false);
        } catch (int) {
        }
        try {
            delete new (std::nothrow) Throws;
        } catch (int) {
        }
    }

    std::vector<std::unique_ptr<std::string>> strings;
    const auto text = [](std::size_t i) { return std::string(i % 500, char('a' + i % 26)); };
    for (std::size_t i = 0; i < 20000; i++) strings.push_back(std::make_unique<std::string>(text(i)));
    for (std::size_t i = 0; i < strings.size(); i++) CHECK(*strings[i] == text(i));
    strings.clear();
    CHECK(acre_heap_check(acre_heap_process()));
    return 0;
}
