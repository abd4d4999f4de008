"""latentc beside llama.cpp: one shape, the same bits for a weight, the same threads, in turn.

Prints a table, or with --json an object, of tokens per second: medians over rounds, in each of which every
engine is measured once, and the machine's limits with them. What lies where in memory may change its
rate by half: each round begins with files copied to another place. Measurements during which other programs
used the machine are made again, a few times.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import model

# Formats of the same bits: latentc's, llama.cpp's.
FORMATS = {"int4": "q4_0", "int8g32": "q8_0", "stored": "bf16"}
# Part of the machine that others may use in a round, and how often a round is tried.
QUIET = 0.04
TRIES = 4
HERE = Path(__file__).parent


def arguments():
    parser = argparse.ArgumentParser(prog="./x bench --vs llama.cpp", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="config.json, or the folder that it lies in")
    parser.add_argument("--formats", default="int4,int8g32,stored", help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--contexts", default="0", help="tokens before those that are decoded, e.g. 0,4096")
    parser.add_argument("-C", action="append", default=[], metavar="KEY=VALUE", help="more for latentc")
    parser.add_argument("--json", action="store_true")
    # Set by ./x.
    parser.add_argument("--latentc", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.contexts = [int(c) for c in args.contexts.split(",")]
    args.formats = args.formats.split(",")
    if unknown := set(args.formats) - set(FORMATS):
        parser.error(f"found the format {unknown.pop()}, expected some of {', '.join(FORMATS)}")
    args.config = args.config.resolve()
    if args.config.is_dir():
        args.config /= "config.json"
    return args


def say(text):
    print(f"versus: {text}", file=sys.stderr, flush=True)


def busy():
    """Seconds of all processors spent, by all and by this process and its children, and the time."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), time.perf_counter()


class Engine:
    """What is compiled or written once, and lies elsewhere in each round."""

    def __init__(self, args, form, name):
        self.args = args
        self.form = form
        self.file = args.cache / f"{args.config.parent.name}-{name}"
        self.process = None

    def move(self):
        """Lets the file lie in other memory."""
        self.stop()
        moved = self.file.with_name(f"{self.file.name}.moved")
        shutil.copy(self.file, moved)
        moved.replace(self.file)

    def stop(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process = None

    def close(self):
        self.stop()
        self.file.unlink(missing_ok=True)


class Latentc(Engine):
    """Each measurement is a process."""

    def __init__(self, args, form):
        super().__init__(args, form, form)

    def make(self):
        say(f"compiling {self.file.name}")
        args = self.args
        command = [args.latentc, "compile", args.config, "-o", self.file, "--dummy-weights", "1", "-q"]
        options = [f"weights={self.form}", *args.C]
        run(command + [word for option in options for word in ("-C", option)])

    def measure(self, context):
        """Seconds of a prefill and of a decode behind a context, and what `bench` says."""
        args = self.args
        counts = ["--prompt-tokens", args.prompt_tokens, "--gen-tokens", args.gen_tokens]
        # Behind nothing is behind one token.
        command = [self.file, "bench", "--json", "--repeat", 1, "--threads", args.threads, *counts]
        told = json.loads(run(command + ["--context", max(context, 1)]))
        prefill = args.prompt_tokens / told["prefill_tokens_per_s"]
        return prefill, args.gen_tokens / told["decode_tokens_per_s"], told


class Llama(Engine):
    """A process for each round, as loading takes long."""

    def __init__(self, args, form):
        super().__init__(args, form, f"{FORMATS[form]}.gguf")

    def make(self):
        say(f"writing {self.file.name}")
        model.write(json.loads(self.args.config.read_text()), FORMATS[self.form], self.file)

    def start(self):
        args = self.args
        context = max(args.prompt_tokens, max(args.contexts) + args.gen_tokens) + 64
        command = [sys.executable, HERE / "llama.py", self.file, args.threads, context]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.system = self.answer()
        self.ask("prefill", 8)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"llama.cpp ended with {self.process.wait()}")
        return line.strip()

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return float(self.answer())

    def measure(self, context):
        prefill = self.ask("prefill", self.args.prompt_tokens)
        return prefill, self.ask("decode", self.args.gen_tokens, max(context, 1)), None


def run(command):
    ran = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise SystemExit(f"versus: {command[0]} {command[1]} ended with {ran.returncode}")
    return ran.stdout


def used(work):
    """What work gives, and seconds of processors meanwhile: used by all, by this process and its children that
    ended, and all there were."""
    before, begun = busy()
    own = sum(os.times()[:4])
    given = work()
    after, ended = busy()
    return given, after - before, sum(os.times()[:4]) - own, (ended - begun) * os.cpu_count()


def child_seconds(process):
    """Processor seconds of a process that still runs."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(engine, context):
    """A measurement in which the machine was quiet, or the quietest of a few."""
    best = None
    for _ in range(TRIES):
        process = engine.process
        lasting = child_seconds(process) if process else 0.0
        given, by_all, own, whole = used(lambda: engine.measure(context))
        own += child_seconds(process) - lasting if process else 0.0
        part = max(0.0, (by_all - own) / whole)
        if best is None or part < best[0]:
            best = (part, given)
        if part < QUIET:
            break
    return best


def compare(args, form):
    """Rows of the table, and what llama.cpp says of the machine."""
    engines = {"latentc": Latentc(args, form), "llama.cpp": Llama(args, form)}
    found = {context: {name: [] for name in engines} for context in args.contexts}
    try:
        for engine in engines.values():
            engine.make()
        for number in range(args.rounds):
            say(f"{form}, round {number + 1} of {args.rounds}")
            for engine in engines.values():
                engine.move()
            engines["llama.cpp"].start()
            for context in args.contexts:
                for name, engine in engines.items():
                    found[context][name].append(measured(engine, context))
    finally:
        for engine in engines.values():
            engine.close()
    rows = [row for context in args.contexts for row in summary(args, form, context, found[context])]
    return rows, engines["llama.cpp"].system


def summary(args, form, context, found):
    """A row for each phase. A prefill is told of once, whatever context the decode had."""
    phases = [("prefill", 0, args.prompt_tokens), ("decode", 1, args.gen_tokens)]
    for phase, at, tokens in phases[0 if context == args.contexts[0] else 1 :]:
        rate = {name: [tokens / given[at] for _, given in all] for name, all in found.items()}
        median = {name: statistics.median(all) for name, all in rate.items()}
        fractions = [given[2][f"{phase}_fraction_of_limit"] for _, given in found["latentc"]]
        yield {
            "weights": form,
            "phase": phase,
            "context": context if phase == "decode" else 0,
            "tokens_per_s": {name: {"median": median[name], "all": sorted(rate[name])} for name in rate},
            "ratio": median["latentc"] / median["llama.cpp"],
            "fraction_of_limit": statistics.median(f for f in fractions if f is not None),
            "read_bytes_per_s": [given[2]["limit"]["read_bytes_per_s"] for _, given in found["latentc"]],
            "others": max(part for all in found.values() for part, _ in all),
        }


def table(rows):
    lines = ["| weights | phase | latentc | of limit | llama.cpp | ratio | others |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        phase = row["phase"] + (f" behind {row['context']}" if row["context"] else "")
        rates = [row["tokens_per_s"][name]["median"] for name in ("latentc", "llama.cpp")]
        lines.append(
            f"| {row['weights']} / {FORMATS[row['weights']]} | {phase} | {rates[0]:.1f} | "
            f"{row['fraction_of_limit']:.0%} | {rates[1]:.1f} | {row['ratio']:.2f}x | {row['others']:.0%} |"
        )
    return "\n".join(lines)


def main():
    args = arguments()
    args.cache.mkdir(parents=True, exist_ok=True)
    rows, system = [], ""
    for form in args.formats:
        more, system = compare(args, form)
        rows.extend(more)
    if args.json:
        print(json.dumps({"threads": args.threads, "llama.cpp": system, "rows": rows}, indent=2))
    else:
        print(f"tokens/s on {args.threads} threads, medians of {args.rounds}; llama.cpp: {system}\n{table(rows)}")


main()
