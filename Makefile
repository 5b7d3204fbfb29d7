# The two commands: `make run` shows acre at work, `make test` proves it. CMake does the building; this file names the
# errands. Everything that is missing and that Debian packages, tools/ensure.sh installs.

MAKEFLAGS += --no-print-directory
CMAKE_BUILD := tools/build.sh
PREFIX ?= /usr/local

NEEDS_BUILD := cc:gcc cmake:cmake ninja:ninja-build /usr/include/vulkan/vulkan_core.h:libvulkan-dev
NEEDS_TEST := $(NEEDS_BUILD) c++:g++ /usr/include/cmocka.h:libcmocka-dev pkg-config:pkg-config \
	/usr/share/vulkan/icd.d/lvp_icd.x86_64.json:mesa-vulkan-drivers \
	/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json:vulkan-validationlayers \
	/usr/include/png.h:libpng-dev

.PHONY: build run test debug asan tsan soak oracle bench bench-docs bench-gpu gpu-report example-textures \
	example-kv-cache install clean help needs-build needs-test needs-bench-gpu

build: needs-build ## build/libacre.so, build/libacre.a, build/acre (the default)
	@$(CMAKE_BUILD) release

run: build ## redis under redis-benchmark, on acre and on the system's malloc
	@tools/run-redis.sh

test: needs-test ## all tests: release, then unit and stress tests under the sanitizers
	@tools/test.sh

debug: needs-test ## build and test with asserts, unoptimised
	@$(CMAKE_BUILD) debug
	@ctest --preset debug

asan: needs-test ## build and test under the address and undefined behaviour sanitizers
	@$(CMAKE_BUILD) asan
	@ctest --preset asan

tsan: needs-test ## build and test under the thread sanitizer
	@$(CMAKE_BUILD) tsan
	@ctest --preset tsan

soak: needs-test ## every stress test for ten minutes
	@$(CMAKE_BUILD) release
	@ctest --preset release -C Soak -L '^soak$$' --no-tests=error

oracle: needs-test ## every oracle test with ten million operations
	@$(CMAKE_BUILD) release
	@ctest --preset release -C Oracle -L '^oracle$$' --no-tests=error

bench: build ## acre against its peers (bench/README.md; ARGS=--quick for a look)
	@bench/run.sh $(ARGS)

bench-docs: build ## the same, and the figures and the picture go into docs/
	@bench/run.sh --docs $(ARGS)

bench-gpu: needs-bench-gpu build ## Vulkan memory and the offset core, beside named peers (docs/benchmarks-gpu.md)
	@bench/gpu/run.sh $(ARGS)

example-textures: needs-build ## a flight over streamed textures through a fixed budget, on Vulkan; frames and chart
	@examples/textures/run.sh $(ARGS)

gpu-report: needs-build ## PyTorch's allocators and acre on this machine's GPU, or on the fake driver (ARGS=--quick)
	@$(CMAKE_BUILD) release
	@tools/gpu-report.sh $(ARGS)

example-kv-cache: needs-build ## a key-value cache that grows in place, on the GPU or the fake driver; CSV and chart
	@$(CMAKE_BUILD) release
	@tools/kv-cache.sh $(ARGS)

install: build ## into PREFIX (default /usr/local); DESTDIR is respected
	@cmake --install build --prefix $(PREFIX)

clean: ## remove every build folder
	rm -rf build build-debug build-asan build-tsan

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

needs-build:
	@tools/ensure.sh $(NEEDS_BUILD)

needs-test:
	@tools/ensure.sh $(NEEDS_TEST)
