// libggml.so: build scripts want to find and link one beside libllama.so. All there is to call is in libllama.so.
