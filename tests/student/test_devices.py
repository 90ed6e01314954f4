"""Several processes train what one does, and go on with what another number of them has left."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from contextlib import chdir
from pathlib import Path

import pytest
import torch

from stages.core import layout
from stages.core.errors import UserError
from stages.core.processes import first_process
from stages.finetune import LAYOUT, fingerprint
from stages.finetune import run as finetune
from stages.knobs import FinetuneKnobs
from stages.student import build, fabric
from stages.student.formats.weights import load_state
from stages.student.recipe import Recipe
from stages.student.state import trained
from tests.helpers.finetune_group import KNOBS, result, train_one
from tests.helpers.workspace import ROOT
from tests.student.test_train import adapter, curve, prepare

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
several = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory of this file's tests, with base `m` and the tokens of dataset `d`."""
    directory = tmp_path_factory.mktemp("devices")
    with chdir(directory):
        prepare("pythia", tied=True)
        train_one("one")
        yield directory


@pytest.fixture(scope="module")
def group(place):
    """What two processes of torchrun have made, from the start and from states of others."""
    train_one("one-cut", cut=4)
    jobs = [{"name": strategy, "strategy": strategy} for strategy in ("ddp", "fsdp")]
    jobs += [{"name": f"{strategy}-cut", "strategy": strategy, "cut": 4} for strategy in ("ddp", "fsdp")]
    jobs += [{"name": f"one-{s}", "start": "one-cut", "strategy": s} for s in ("ddp", "fsdp")]
    jobs += [{"name": "fsdp-ddp", "start": "fsdp-cut", "strategy": "ddp"}]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.helpers.finetune_group", json.dumps(jobs)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    for strategy in ("ddp", "fsdp"):
        train_one(f"{strategy}-one", start=f"{strategy}-cut")
    return done


def close(found: tuple, wanted: tuple) -> None:
    """The same adapter and the same losses but for rounding."""
    assert found[0].keys() == wanted[0].keys() and len(found[1]) == len(wanted[1])
    for name, tensor in wanted[0].items():
        assert (found[0][name] - tensor).abs().max() < 5e-6, name
    for one, other in zip(found[1], wanted[1], strict=True):
        assert one.keys() == other.keys() and one["step"] == other["step"]
        assert [one[key] for key in one if "loss" in key] == pytest.approx(
            [other[key] for key in one if "loss" in key], abs=1e-5
        )


@pytest.mark.slow
@several
@pytest.mark.parametrize("name", ["ddp", "fsdp", "one-ddp", "one-fsdp", "ddp-one", "fsdp-one", "fsdp-ddp"])
def test_any_number_of_processes_trains_the_same(group, name):
    """Alone, under torchrun, and cut before step 4 (saved after 3) and continued by others."""
    close(result(name), result("one"))


@pytest.mark.slow
@several
def test_only_the_first_process_speaks(group):
    assert group.stdout.count("going on after step 3") == 3
    assert group.stderr.count("10/10 step") == 5
    assert not os.path.exists("out/ddp-cut")


@pytest.mark.slow
@several
def test_killed_process_ends_the_others_and_one_goes_on(place, capsys):
    """Fabric starts the second process; SIGKILL ends it in the middle of training."""
    given = {**KNOBS, "epochs": 12, "save_interval": 1, "eval_interval": 100}
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "stages", "finetune", "d", *arguments, "--devices", "2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=-3, text=True)
    while not list(layout.SCRATCH.glob("finetune-d-*/state.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGKILL)
    killed = time.monotonic()
    assert process.wait(timeout=60) != 0
    assert time.monotonic() - killed < 30
    assert "another of the 2 processes has ended" in process.stderr.read()
    assert not layout.model("d", "adapter").exists()
    finetune("d", FinetuneKnobs(**given))
    assert "going on after step" in capsys.readouterr().out
    continued = adapter(), curve()
    finetune("d", FinetuneKnobs(**given))
    close(continued, (adapter(), curve()))


def test_a_state_depends_on_what_is_computed_not_on_where(place):
    paths = layout.base_model("m"), layout.tokens("d")
    here = fingerprint(*paths, FinetuneKnobs(**KNOBS))
    moved = {"devices": 2, "num_nodes": 2, "strategy": "fsdp", "micro_batch_size": 1, "save_interval": 7}
    moved |= {"packing": "true", "checkpoint": True}
    assert moved.keys() == LAYOUT
    assert fingerprint(*paths, FinetuneKnobs(**KNOBS | moved)) == here
    assert fingerprint(*paths, FinetuneKnobs(**KNOBS | {"lr": 2e-3})) != here


# --- who starts the processes -------------------------------------------------------------------------------

TORCHRUN = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1"}
SBATCH = {"SLURM_JOB_ID": "12345678", "SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}
SRUN = {
    **SBATCH,
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_CPUS_PER_TASK": "12",
}


@pytest.mark.parametrize(
    ("given", "wanted", "first"),
    [
        ({}, (4, 1, False), True),
        (SBATCH, (4, 1, False), True),  # inside a job, but not started by srun
        (TORCHRUN, (8, 2, True), False),
        (SRUN, (8, 2, True), False),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4"}, (4, 1, False), False),  # started by Fabric
    ],
)
def test_processes_are_counted_by_their_launcher(monkeypatch, given, wanted, first):
    monkeypatch.setattr(os, "environ", dict(given))
    assert first_process() is first
    assert fabric.launch_of(Recipe(devices=4)) == wanted
    if given is SRUN:
        assert os.environ | TORCHRUN == os.environ
        assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "20678")
        assert os.environ["OMP_NUM_THREADS"] == "12"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_are_told_to_sleep_before_torch_is_there(given, wanted):
    """Libgomp reads the variable when it is loaded; what the user has set stays."""
    script = (
        "import os, sys\n"
        "class Loading:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('GOMP_SPINCOUNT'), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Loading)\n"
        "from stages.core.stage import command\n"
        "from stages.params import STAGES\n"
        "command(STAGES['export'])(['d', '--base', 'm'])\n"
    )
    free = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=free | given | {"RETORT_TRACKING": "off"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == wanted, done.stderr


@pytest.mark.parametrize(("given", "wanted"), [({}, 3), ({"OMP_NUM_THREADS": "2"}, 2)])
def test_processes_share_the_cores(monkeypatch, given, wanted):
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)))
    counts = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    fabric.share_cores(fabric.Launch(2, 1, started=False))
    fabric.share_cores(fabric.Launch(1, 1, started=False))
    assert counts == [wanted] and os.environ["OMP_NUM_THREADS"] == str(wanted)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"devices": 4096}, "devices 4096, but this process may use"),
        ({"quantize": "nf4", "strategy": "fsdp"}, "fsdp cannot split nf4 weights"),
        ({"precision": "16-mixed"}, "16-mixed needs CUDA"),
    ],
)
def test_what_cannot_run_is_told(changes, told):
    with pytest.raises(UserError, match=told):
        fabric.make_fabric(Recipe(**changes))


# --- 4 bits -------------------------------------------------------------------------------------------------


def test_nf4_needs_its_package(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        build.build(layout.base_model("m"), Recipe(quantize="nf4"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_nf4_learns_nearly_as_well(place, precision):
    pytest.importorskip("bitsandbytes")
    model = build.build(layout.base_model("m"), Recipe(quantize="nf4", precision=precision))
    blocks = {p.dtype for name, p in model.transformer.h.named_parameters() if "linear.weight" in name}
    assert blocks == {torch.uint8} and {p.dtype for p in trained(model).values()} == {torch.float32}
    train_one(f"nf4-{precision}", quantize="nf4", precision=precision)
    names = ("one", f"nf4-{precision}")
    exact, found = ([row["val_loss"] for row in result(n)[1] if "val_loss" in row] for n in names)
    assert found == pytest.approx(exact, abs=0.05) and found != exact
    assert found[0] - found[-1] == pytest.approx(exact[0] - exact[-1], rel=0.2)


def test_nf4_refuses_layers_that_are_no_whole_blocks(place, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(build, "BLOCKS", (64,))
    with pytest.raises(UserError, match="multiple of 64 inputs, and this base has 32; use quantize none"):
        build.build(layout.base_model("m"), Recipe(quantize="nf4"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_nf4_goes_on_exactly_where_it_was_killed(place, precision):
    pytest.importorskip("bitsandbytes")
    recipe = {"quantize": "nf4", "precision": precision, "epochs": 1}
    for name, part in (("whole", {}), ("cut", {"cut": 4}), ("on", {"start": f"nf4-{precision}-cut"})):
        train_one(f"nf4-{precision}-{name}", **part, **recipe)
    whole, on = (result(f"nf4-{precision}-{name}") for name in ("whole", "on"))
    assert whole[1] == on[1] and all(torch.equal(value, on[0][name]) for name, value in whole[0].items())


def test_no_package_fetches_code_for_bitsandbytes(monkeypatch):
    fetching = types.ModuleType("kernels")
    fetching.get_kernel = lambda *_, **__: pytest.fail("fetches native code from a hub")
    monkeypatch.setitem(sys.modules, "kernels", fetching)
    with build.without_fetched_code(), pytest.raises(ImportError):
        from kernels import get_kernel  # noqa: F401
    assert sys.modules["kernels"] is fetching


@pytest.mark.slow
def test_bitsandbytes_itself_fetches_nothing_and_says_nothing():
    pytest.importorskip("bitsandbytes")
    probe = (
        "import sys, types; fetching = sys.modules['kernels'] = types.ModuleType('kernels')\n"
        "fetching.get_kernel = lambda *_, **__: print('fetched')\n"
        "from stages.student.build import without_fetched_code\n"
        "with without_fetched_code(): import bitsandbytes"
    )
    env = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("part", ["fc", "proj"])
def test_nf4_layer_is_its_dequantized_product(place, part):
    """Output and gradient of an adapted layer, also after a validation, against plain products.

    The first layer is 32 wide, where bitsandbytes errs with blocks of 64, the second 128.
    """
    functional = pytest.importorskip("bitsandbytes.functional")
    model = build.build(layout.base_model("m"), Recipe(quantize="nf4"))
    layer = getattr(model.transformer.h[0].mlp, part)
    layer.lora_B.data.normal_()
    state = layer.linear.weight.quant_state
    weight = functional.dequantize_4bit(layer.linear.weight.data, state)
    exact = load_state(layout.base_model("m"))[f"transformer.h.0.mlp.{part}.weight"]
    assert state.nested and 0.05 < (weight - exact).norm() / exact.norm() < 0.1
    weight = weight + layer.scaling * layer.lora_B.detach() @ layer.lora_A.detach()
    x = torch.randn(5, weight.shape[1], requires_grad=True)
    with torch.no_grad():
        layer.eval()(x.detach())
    layer.train()(x).square().sum().backward()
    y = x.detach() @ weight.t() + layer.linear.bias
    assert (x.grad - 2 * y @ weight).abs().max() < 1e-3
