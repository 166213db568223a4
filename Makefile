# The two commands of the README, and little more.
.PHONY: demo test build format

build:
	@scripts/setup.sh
	@scripts/build.sh release

# Asks the trained model, traces it, traces it with one wrong semantic, and lets `bitnet diff` find it.
demo:
	@scripts/setup.sh
	@scripts/build.sh release bitnet bitnet_plugin_jsonl
	@scripts/demo.sh

# Everything: the release build with all tests, then the unit tests again under the sanitizers.
test:
	@scripts/setup.sh tests
	@scripts/test.sh

format:
	@git ls-files '*.cpp' '*.h' '*.c' | grep -v include/bitnet_c.h | xargs clang-format -i
