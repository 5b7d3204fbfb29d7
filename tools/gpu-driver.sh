# gpu-driver.sh: sourced; chooses the CUDA driver. Sets gpu_driver to "real" or "fake", gpu_driver_text to a sentence for
# people, and exports ACRE_CUDA_DRIVER and what the fake driver reads, if it is the fake one.
#
# Environment: ACRE_CUDA_DRIVER (used as it is), BUILD (build), FAKE_CUDA_* (see tests/support/fake_cuda.h).
if [ -z "${ACRE_CUDA_DRIVER:-}" ] && ! { [ -e /dev/nvidiactl ] && ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; }
then
    ACRE_CUDA_DRIVER=$PWD/${BUILD:-build}/tests/libfake_cuda.so
    export ACRE_CUDA_DRIVER
fi
case ${ACRE_CUDA_DRIVER:-} in
*fake_cuda*)
    gpu_driver=fake
    FAKE_CUDA_BACKED=${FAKE_CUDA_BACKED:-1}
    FAKE_CUDA_BYTES=${FAKE_CUDA_BYTES:-25769803776}
    FAKE_CUDA_LATENCY=${FAKE_CUDA_LATENCY:-1}
    export FAKE_CUDA_BACKED FAKE_CUDA_BYTES FAKE_CUDA_LATENCY
    gpu_driver_text="on the tests' fake driver: no GPU saw this"
    [ "$FAKE_CUDA_LATENCY" != 1 ] || gpu_driver_text="$gpu_driver_text; driver latencies of an A100"
    if [ ! -e "$ACRE_CUDA_DRIVER" ]; then
        echo "gpu-driver: $ACRE_CUDA_DRIVER is not there: build the tests first" >&2
        exit 1
    fi
    ;;
*)
    gpu_driver=real
    gpu_driver_text="on this machine's GPU"
    ;;
esac
