"""llama.cpp as a process that measures when told to, so that engines can take turns.

    llama.py MODEL.gguf THREADS CONTEXT

reads lines `prefill N` and `decode N BEHIND`, and answers each with the seconds that it took. Tokens are
random; nothing is sampled.
"""

import ctypes
import math
import random
import sys
import time

from llama_cpp import llama_cpp as lib


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def faults_only(level, text, _):
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


class Session:
    def __init__(self, path, threads, context):
        lib.llama_log_set(faults_only, ctypes.c_void_p(0))
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not model:
            raise SystemExit(f"llama.cpp does not load {path}")
        params = lib.llama_context_default_params()
        params.n_ctx = -(-context // 256) * 256
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        self.context = lib.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit("llama.cpp makes no context")
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.memory = lib.llama_get_memory(self.context)
        self.random = random.Random(0)
        self.kept = 0

    def feed(self, count):
        """Takes in so many tokens, in batches, with logits of the last."""
        while count:
            size = min(count, 512)
            batch = lib.llama_batch_init(size, 0, 1)
            batch.n_tokens = size
            for i in range(size):
                batch.token[i] = self.random.randrange(self.vocab)
                batch.pos[i] = self.kept + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = int(size == count and i == size - 1)
            failed = lib.llama_decode(self.context, batch)
            lib.llama_batch_free(batch)
            if failed:
                raise SystemExit(f"llama_decode fails with {failed}")
            self.kept += size
            count -= size
        lib.llama_synchronize(self.context)
        if not math.isfinite(lib.llama_get_logits_ith(self.context, -1)[0]):
            raise SystemExit("llama.cpp computes logits that are no numbers")

    def keep(self, count):
        """Forgets what lies behind so many tokens, and takes in what is missing of them."""
        lib.llama_memory_seq_rm(self.memory, 0, count, -1)
        self.kept = min(self.kept, count)
        if self.kept < count:
            self.feed(count - self.kept)

    def prefill(self, count):
        self.keep(0)
        return self.timed(lambda: self.feed(count))

    def decode(self, count, behind):
        self.keep(behind)
        return self.timed(lambda: [self.feed(1) for _ in range(count)])

    @staticmethod
    def timed(work):
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun


def main(path, threads, context):
    session = Session(path, int(threads), int(context))
    print(lib.llama_print_system_info().decode(), flush=True)
    for line in sys.stdin:
        what, *counts = line.split()
        print(getattr(session, what)(*map(int, counts)), flush=True)


main(*sys.argv[1:])
