#!/usr/bin/env python3
"""scripts/crossval_sweep.sh and its Snakefile: python3 test_sweep.py BITNET LIBBITNET ROWS SNAKEMAKE [unittest options]

Verdicts and exit codes, kill -9 in the middle, the same summary from one machine, from Snakemake and from a Slurm of one node
that the test starts. SNAKEMAKE or Slurm that are not there skip their tests.
"""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SCRIPT = SOURCE / "scripts" / "crossval_sweep.sh"
SMALL = SOURCE / "tests" / "data" / "small.gguf"
ENGINE = Path(__file__).resolve().parent / "slow_engine.py"
N_VOCAB = 512
TIMEOUT_SECONDS = 900 if os.environ.get("BITNET_SWEEP_FULL") else 240
BITNET = LIBRARY = ROWS = SNAKEMAKE = None


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-sweep-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        shutil.copyfile(SMALL, self.folder / "small.gguf")
        shutil.copyfile(SMALL, self.folder / "other.gguf")
        self.prompts("one", "two words")

    def prompts(self, *texts):
        (self.folder / "p.txt").write_text("".join(text + "\n" for text in texts))

    def environment(self, extra=None):
        # What must not reach a cell.
        hostile = {"BITNET_TRACE_PLUGIN": "no_such_plugin", "BITNET_ISA": "no_such_isa", "BITNET_SEED": "9"}
        return {**os.environ, **hostile, "BITNET": str(BITNET), "SNAKEMAKE": str(SNAKEMAKE), **(extra or {})}

    def command(self, *arguments, out="out", against=None, models=("small.gguf",)):
        models = [item for model in models for item in ("-m", model)]
        return ["sh", str(SCRIPT), "-o", out, *models, "--prompts", "p.txt", "--against", against or f"lib:{LIBRARY}",
                *map(str, arguments)]

    def sweep(self, code, *arguments, env=None, **options):
        result = subprocess.run(self.command(*arguments, **options), capture_output=True, text=True, cwd=self.folder,
                                env=self.environment(env), timeout=TIMEOUT_SECONDS)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result

    def summary(self, out="out"):
        return json.loads((self.folder / out / "summary.json").read_text())

    def slow_engine(self):
        ids = subprocess.run([BITNET, "tokenize", "-m", SMALL, "-p", "one"], capture_output=True, text=True,
                             check=True).stdout.split()
        rows = subprocess.run([ROWS, SMALL, ",".join(ids)], capture_output=True, check=True).stdout
        (self.folder / "rows").write_bytes(rows)
        return f"cmd:{sys.executable} {ENGINE} {self.folder}/log {self.folder}/rows {N_VOCAB}"

    def evaluations(self):
        return (self.folder / "log").read_text().splitlines()


class Sweep(Case):
    def test_matches(self):
        self.sweep(0, "--tokens", "0,3", "-j", 2, models=("small.gguf", "other.gguf"))
        summary = self.summary()
        self.assertEqual(summary["counts"], {"cells": 8, "match": 8, "divergence": 0, "error": 0, "missing": 0})
        self.assertEqual([(c["model"], c["prompt"], c["tokens"]) for c in summary["cells"]],
                         [(m, p, t) for m in ("small.gguf", "other.gguf") for p in "01" for t in (0, 3)])
        self.assertTrue(all(c["summary"]["cosine_least"] == 1 for c in summary["cells"]))
        self.assertIn("| small.gguf | 1 | 3 | match |", (self.folder / "out" / "summary.md").read_text())
        self.assertEqual(sorted(p.name for p in (self.folder / "out").iterdir()),
                         ["cells", "summary.json", "summary.md", "sweep.json"])

    def test_divergence(self):
        self.sweep(1, "--", "--against-as", "activation=silu")
        self.assertEqual(self.summary()["counts"]["divergence"], 2)
        self.assertIn("**divergence**", (self.folder / "out" / "summary.md").read_text())
        first = self.summary()["cells"][0]
        self.assertIsNotNone(first["first_divergence"])

    def test_errors_are_kept_apart_and_win(self):
        (self.folder / "small.gguf").write_bytes(b"no model")
        self.sweep(2, "--", "--against-as", "activation=silu", models=("small.gguf", "other.gguf"))
        counts = self.summary()["counts"]
        self.assertEqual((counts["divergence"], counts["error"]), (2, 2))
        self.assertEqual(self.summary()["exit"], 2)

    def test_failed_cells_are_tried_again_and_finished_ones_are_not(self):
        self.prompts("one", "one")
        engine = self.slow_engine()
        self.sweep(0, against=engine)
        self.assertEqual(len(self.evaluations()), 2)
        self.sweep(0, against=engine)
        self.assertEqual(len(self.evaluations()), 2)
        first_id = self.evaluations()[0].split()[1]
        self.sweep(2, out="failing", against=engine.replace(sys.executable, f"SLOW_ENGINE_FAILS={first_id} {sys.executable}"))
        self.assertEqual(self.summary("failing")["counts"]["error"], 2)
        self.assertIn("exit code 3", self.summary("failing")["cells"][0]["text"])
        self.sweep(0, out="failing", against=engine)  # another command: these are other cells
        self.assertEqual(len(self.evaluations()), 6)

    def test_a_changed_input_is_run_again(self):
        self.prompts("one", "one")
        engine = self.slow_engine()
        self.sweep(0, against=engine)
        shutil.copyfile(SMALL, self.folder / "small.gguf")
        os.utime(self.folder / "small.gguf", ns=(1, 1))
        self.sweep(0, against=engine)
        self.assertEqual(len(self.evaluations()), 4)
        self.sweep(0, "--", "--preset", "seed", against=engine)
        self.assertEqual(len(self.evaluations()), 6)

    def test_kill_9(self):
        self.prompts(*["one"] * 6)
        engine = self.slow_engine()
        process = subprocess.Popen(self.command(against=engine), cwd=self.folder, stdout=subprocess.DEVNULL,
                                   env=self.environment({"SLOW_ENGINE_HANGS_AT": "3"}), stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        cells, log = self.folder / "out" / "cells", self.folder / "log"
        until = time.monotonic() + 60
        while not (log.exists() and len(self.evaluations()) == 3) and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.assertEqual((len(list(cells.glob("*.json"))), len(self.evaluations())), (2, 3))
        for path in cells.glob("*.json"):
            self.assertEqual(json.loads(path.read_text())["exit"], 0)
        self.assertFalse((self.folder / "out" / "summary.json").exists())
        self.sweep(0, against=engine)
        self.assertEqual(len(self.evaluations()), 3 + 4)
        self.assertEqual([p.name for p in cells.glob(".*")], [])
        self.sweep(0, out="whole", against=engine)
        for name in ("summary.json", "summary.md"):
            self.assertEqual((self.folder / "out" / name).read_bytes(), (self.folder / "whole" / name).read_bytes())

    def test_one_sweep_in_a_folder_at_a_time(self):
        self.prompts("one", "one")
        process = subprocess.Popen(self.command(against=self.slow_engine()), cwd=self.folder, stdout=subprocess.DEVNULL,
                                   env=self.environment({"SLOW_ENGINE_HANGS_AT": "1"}), stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(os.killpg, process.pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while not (self.folder / "log").exists() and time.monotonic() < until:
            time.sleep(0.01)
        self.assertIn("out: another sweep is running in it", self.sweep(2).stderr)

    def test_places_in_the_spec(self):
        for i, text in enumerate(("one", "two words")):
            ids = subprocess.run([BITNET, "tokenize", "-m", SMALL, "-p", text], capture_output=True, text=True).stdout.split()
            rows = subprocess.run([ROWS, SMALL, ",".join(ids)], capture_output=True, check=True).stdout
            (self.folder / f"small-{i}-0.f32").write_bytes(rows)
        self.sweep(0, against="raw:{model}-{prompt}-{tokens}.f32")

    def test_bad_arguments(self):
        for arguments, expected in ((("-j", "0"), "-j: found '0'"), (("--tokens", "1,1"), "different whole numbers"),
                                    (("--tokens", "-1"), "different whole numbers"), (("--what",), "found '--what'"),
                                    (("-m", "absent.gguf"), "absent.gguf: no such file"), (("-m", "small.gguf"), "twice"),
                                    (("--tokens",), "a value is missing")):
            self.assertIn(expected, self.sweep(2, *arguments).stderr)
        (self.folder / "p.txt").write_text("\n")
        self.assertIn("no prompt in it", self.sweep(2).stderr)
        (self.folder / "p.txt").write_text('{"prompt": "a"}\n{}\n')
        self.assertIn("prompt 1", self.sweep(2).stderr)


def have_snakemake():
    return SNAKEMAKE is not None and SNAKEMAKE.is_file()


class Snakemake(Case):
    def setUp(self):
        super().setUp()
        if not have_snakemake():
            self.skipTest(f"no {SNAKEMAKE}: scripts/setup.sh tests installs it")
        # One cell matches, one fails.
        (self.folder / "broken.gguf").write_bytes(b"no model")
        self.prompts("one")
        self.models = ("small.gguf", "broken.gguf")

    def both(self, snakemake, env=None):
        self.sweep(2, out="here", models=self.models)
        result = self.sweep(2, "--snakemake", snakemake, out="there", models=self.models, env=env)
        for name in ("summary.json", "summary.md"):
            self.assertEqual((self.folder / "here" / name).read_bytes(), (self.folder / "there" / name).read_bytes(),
                             result.stderr)
        return result.stderr

    def test_local_cores_give_the_same_summary(self):
        self.both("--cores 2")
        self.assertEqual(self.summary("there")["counts"], {"cells": 2, "match": 1, "divergence": 0, "error": 1, "missing": 0})
        # Finished cells stay; failed ones are tried again.
        before = {p.name: p.stat().st_mtime_ns for p in (self.folder / "there" / "cells").iterdir()}
        shutil.copyfile(SMALL, self.folder / "broken.gguf")
        self.sweep(0, "--snakemake", "--cores 2", out="there", models=self.models)
        after = {p.name: p.stat().st_mtime_ns for p in (self.folder / "there" / "cells").iterdir()}
        self.assertEqual([before[name] == after[name] for name in sorted(before)], [True, False])

    def test_one_node_of_slurm(self):
        if not all(map(shutil.which, ("munged", "slurmctld", "slurmd", "sbatch"))):
            self.skipTest("no Slurm: scripts/setup.sh tests installs it")
        slurm = Slurm(self.folder / "slurm")
        self.addCleanup(slurm.stop)
        log = self.both(Slurm.PROFILE, env={"SLURM_CONF": str(slurm.conf)})
        self.assertEqual(log.count("has been submitted with SLURM jobid"), 2, log)

    @unittest.skipUnless(os.environ.get("BITNET_SWEEP_FULL"), "some minutes of Slurm's waiting: BITNET_SWEEP_FULL=1 runs it")
    def test_three_models_times_twenty_prompts_on_slurm(self):
        """Killed in the middle and resumed, here and on Slurm: the same bytes, no finished cell run again."""
        slurm = Slurm(self.folder / "slurm")
        self.addCleanup(slurm.stop)
        models = ("small.gguf", "other.gguf", "third.gguf")
        for seed, model in enumerate(models[1:]):
            subprocess.run([BITNET, "make-model", "--preset", "tiny", "--seed", str(seed), "-o", self.folder / model], check=True,
                           capture_output=True)
        options = ("--", "--against-as", "activation=silu")
        self.prompts(*(f"prompt {i} of twenty" for i in range(20)))
        for out, where in (("here", ()), ("there", ("--snakemake", Slurm.PROFILE))):
            with open(self.folder / f"{out}.log", "w") as log:
                process = subprocess.Popen(self.command(*where, *options, out=out, models=models), cwd=self.folder, stdout=log,
                                           stderr=log, start_new_session=True,
                                           env=self.environment({"SLURM_CONF": str(slurm.conf)}))
            cells = self.folder / out / "cells"
            while process.poll() is None and len(list(cells.glob("[0-9]*.json"))) < 25:
                time.sleep(0.01)
            self.assertIsNone(process.poll(), (self.folder / f"{out}.log").read_text())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            subprocess.run(["scancel", "-u", getpass.getuser()], env=slurm.environment, check=True)
            slurm.wait(lambda: not subprocess.run(["squeue", "-h"], env=slurm.environment, capture_output=True).stdout)
            finished = {path.name: path.stat().st_mtime_ns for path in cells.glob("[0-9]*.json")}
            # A cancelled job that was about to end takes its own result with it.
            self.assertTrue(20 <= len(finished) < 60, len(finished))
            self.sweep(1, *where, *options, out=out, models=models, env={"SLURM_CONF": str(slurm.conf)})
            self.assertEqual({name: (cells / name).stat().st_mtime_ns for name in finished}, finished)
        self.assertEqual(self.summary("there")["counts"]["cells"], 60)
        for name in ("summary.json", "summary.md"):
            self.assertEqual((self.folder / "here" / name).read_bytes(), (self.folder / "there" / name).read_bytes())


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Slurm:
    """A Slurm of one node in a folder, until stop()."""
    PROFILE = (f"--profile {SOURCE}/scripts/sweep/slurm --default-resources slurm_account=none slurm_partition=one_node "
               "runtime=5 mem_mb=100 --slurm-init-seconds-before-status-checks 1 --seconds-between-status-checks 1 "
               "--slurm-status-command squeue --latency-wait 20")

    CONF = """ClusterName=sweep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=500
PartitionName=one_node Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

    def __init__(self, folder):
        for path in (folder, folder / "state", folder / "spool"):
            path.mkdir()
        folder.parent.chmod(0o755)  # munge's clients must reach its socket
        self.conf = folder / "slurm.conf"
        self.conf.write_text(self.CONF.format(folder=folder, host=socket.gethostname().split(".")[0], user=getpass.getuser(),
                                              ports=(free_port(), free_port()), cpus=len(os.sched_getaffinity(0))))
        # Jobs start with an environment of their own, and Snakemake takes what begins with SLURM_ out of it: a cluster's
        # file stands in /etc, this one is told to srun by a script in front of it.
        self.script(folder / "prolog", f"echo \"export PATH={folder}/bin:$PATH\"")
        (folder / "bin").mkdir()
        self.script(folder / "bin" / "srun", f'SLURM_CONF={self.conf} exec {shutil.which("srun")} "$@"')
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.processes = []
        self.log = open(folder / "log", "w")
        self.start("munged", "-F", "--force", *(f"--{name}={folder}/{file}" for name, file in (
            ("key-file", "munge.key"), ("socket", "munge.socket"), ("pid-file", "munged.pid"), ("log-file", "munged.log"),
            ("seed-file", "munge.seed"))))
        self.wait(lambda: (folder / "munge.socket").exists())
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        self.wait(lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True,
                                                   env=self.environment).stdout)

    @staticmethod
    def script(path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def start(self, *command):
        self.processes.append(subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log))

    def wait(self, ready):
        until = time.monotonic() + 30
        while not ready():
            if time.monotonic() > until or any(process.poll() is not None for process in self.processes):
                self.stop()
                raise AssertionError("Slurm does not start: " + Path(self.log.name).read_text()[-2000:])
            time.sleep(0.1)

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        self.log.close()


if __name__ == "__main__":
    BITNET, LIBRARY, ROWS, SNAKEMAKE = (Path(path).absolute() for path in sys.argv[1:5])
    unittest.main(argv=[sys.argv[0], *sys.argv[5:]])
