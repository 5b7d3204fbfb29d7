// torch_like: calls libacre_torch.so as PyTorch's CUDAPluggableAllocator does: functions found by name, cast to its
// types, kept as std::function, a pair and a std::function among their arguments; and catches what is thrown out of C.
//
//   torch_like LIBRARY DRIVER
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <stdexcept>
#include <sys/types.h>
#include <utility>

using stream = struct stream_type *;
using pool_id = std::pair<unsigned long long, unsigned long long>;

static void *library, *driver;

template <typename Type> static std::function<Type> hook(const char *name)
{
    void *address = dlsym(library, name);
    if (!address) {
        std::fprintf(stderr, "%s\n", dlerror());
        std::exit(1);
    }
    return reinterpret_cast<Type *>(reinterpret_cast<std::uintptr_t>(address));
}

static void check(bool condition, const char *what)
{
    if (condition) return;
    std::fprintf(stderr, "torch_like: not so: %s\n", what);
    std::exit(1);
}

// A destructor on the way tells whether the exception went through frames as it must.
struct witness {
    bool &gone;
    ~witness() { gone = true; }
};

int main(int, char **arguments)
{
    setenv("ACRE_CUDA_DRIVER", arguments[2], 1);
    setenv("ACRE_TORCH_BUDGET", "64M", 1);
    setenv("ACRE_TORCH_QUIET", "1", 1);
    library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    driver = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
    check(library && driver, "both libraries load");

    auto alloc = hook<void *(std::size_t, int, stream)>("acre_torch_alloc");
    auto release = hook<void(void *, std::size_t, int, stream)>("acre_torch_free");
    auto init = hook<void(int)>("acre_torch_init");
    auto reset = hook<void()>("acre_torch_reset");
    auto fraction = hook<void(double, int)>("acre_torch_memory_fraction");
    auto base = hook<void *(void *, std::size_t *)>("acre_torch_base_alloc");
    auto record = hook<void(void *, stream)>("acre_torch_record_stream");
    auto begin = hook<void(int, pool_id, std::function<bool(stream)>)>("acre_torch_begin_pool");
    auto end = hook<void(int, pool_id)>("acre_torch_end_pool");
    auto forget = hook<void(int, pool_id)>("acre_torch_release_pool");

    init(1);
    void *block = alloc(10 << 20, 0, nullptr);
    std::size_t size = 0;
    check(block && base(block, &size) == block && size >= 10 << 20, "a block and its base");
    record(block, nullptr);

    bool unwound = false, caught = false;
    try {
        witness w{unwound};
        alloc(100 << 20, 0, nullptr);
    } catch (const std::exception &error) {
        caught = dynamic_cast<const std::runtime_error *>(&error) != nullptr &&
                 std::strncmp(error.what(), "CUDA out of memory", 18) == 0;
        std::printf("%s", error.what());
    }
    check(caught && unwound, "out of memory is a runtime_error that says so");

    fraction(0.5, 0);
    void *more = alloc(100 << 20, 0, nullptr);
    check(more != nullptr, "a fraction raises the budget");
    release(more, 100 << 20, 0, nullptr);
    reset();

    // The pair's halves have to arrive as they were sent: a pool is released only under its own name.
    auto used = reinterpret_cast<std::uint64_t (*)()>(dlsym(driver, "fake_cuda_used_bytes"));
    auto new_stream = reinterpret_cast<stream (*)()>(dlsym(driver, "fake_cuda_stream"));
    auto capture = reinterpret_cast<void (*)(stream, bool)>(dlsym(driver, "fake_cuda_capture"));
    check(used && new_stream && capture, "the fake driver has what this needs");
    stream s = new_stream();
    const pool_id id{0x123456789abcdef0ull, 42}, other{0x123456789abcdef0ull, 43};
    int asked = 0;
    begin(0, id, [&asked](stream) { return ++asked > 0; });
    capture(s, true);
    release(alloc(20 << 20, 0, s), 20 << 20, 0, s);
    end(0, id);
    capture(s, false);
    reset();
    std::uint64_t with_graph = used();
    forget(0, other);
    reset();
    check(used() == with_graph, "another pool's release is not this one's");
    forget(0, id);
    reset();
    check(used() + (20 << 20) <= with_graph, "the pool's memory is free after its release");
    release(block, 10 << 20, 0, nullptr);
    reset();
    check(used() == 0, "everything was given back");
    std::puts("torch_like: all as PyTorch needs it");
    return 0;
}
