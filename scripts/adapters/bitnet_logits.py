"""The server's side of bitnet-logits/1 (abi/cli/crossval/CROSSVAL.md): an engine in Python for `bitnet crossval`.

    class Engine:
        name = "my engine 1.0"
        def eval(self, ids): ...               # (len(ids), n_vocab) of float32: anything with .shape and .tobytes()
        def tokenize(self, text, add_bos, parse_special): ...   # optional; text is bytes; a list of ids
    serve(Engine())

The model is the path in BITNET_CROSSVAL_MODEL.
"""

import base64
import os
import sys

PROTOCOL, VERSION = "bitnet-logits", 1


def model_path():
    return os.environ["BITNET_CROSSVAL_MODEL"]


def serve(engine):
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the engine prints must not get between the answers

    def say(line):
        answers.write(line.encode() + b"\n")
        answers.flush()

    say(f"{PROTOCOL} {VERSION} {engine.name}")
    for line in requests:
        try:
            words = line.decode().split()
            if words[:1] == ["eval"]:
                logits = engine.eval([int(word) for word in words[1:]])
                say(f"logits {logits.shape[0]} {logits.shape[1]}")
                answers.write(logits.tobytes())
                answers.flush()
            elif words[:1] == ["tokenize"] and hasattr(engine, "tokenize"):
                text = base64.b64decode(words[3]) if len(words) > 3 else b""
                say("ids " + " ".join(map(str, engine.tokenize(text, words[1] == "1", words[2] == "1"))))
            else:
                say("unsupported")
        except Exception as error:  # one bad request must not end the engine
            say("error " + " ".join(f"{type(error).__name__}: {error}".split()))
    return 0


def main(make_engine):
    """serve(), with what keeps the engine from starting said in the protocol."""
    try:
        engine = make_engine()
    except Exception as error:
        print("error " + " ".join(f"{type(error).__name__}: {error}".split()), flush=True)
        return 2
    return serve(engine)


if __name__ == "__main__":
    sys.exit("bitnet_logits: a module: see oracle.py for an engine that uses it")
