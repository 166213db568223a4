# The two commands of the README, and little more.
.PHONY: demo test build format bitnet-cpp-prefix

build:
	@scripts/setup.sh
	@scripts/build.sh release

# Asks the trained model, traces it, traces it with one wrong semantic, and lets `bitnet diff` find it.
demo:
	@scripts/setup.sh
	@scripts/build.sh release bitnet bitnet_plugin_jsonl
	@scripts/demo.sh

# What BitNet-rs finds through BITNET_CPP_DIR=$(PREFIX): libbitnet.so, libllama.so, libggml.so, llama.h and the plugins.
bitnet-cpp-prefix:
	@test -n "$(PREFIX)" || { echo "make bitnet-cpp-prefix: PREFIX is not set: expected the folder to install into" >&2; exit 2; }
	@scripts/setup.sh
	@scripts/build.sh release bitnet_cpp_prefix
	@cmake --install build/release --component bitnet-cpp --prefix "$(PREFIX)"

# Everything: the release build with all tests, then the unit tests again under the sanitizers.
test:
	@scripts/setup.sh tests
	@scripts/test.sh

format:
	@git ls-files '*.cpp' '*.h' '*.c' | grep -v -e '^include/' -e llama/include/ -e tests/abi/frozen/ | xargs clang-format -i
