"""Other programs for sweeps: `override` is all that they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lossweights import LossConfig
from tests.search.trainings import CONFIG

HYDRA = """
import json
from pathlib import Path

import hydra

from lossweights import LossConfig


@hydra.main(version_base=None, config_path=".", config_name="sweep")
def main(knobs):
    config = LossConfig.read(knobs.loss).override(
        {"kl.weight": knobs.weight, "kl.schedule.cycles": knobs.cycles}
    )
    Path("used.json").write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))


main()
"""


def test_a_multirun_of_hydra(tmp_path: Path) -> None:
    (tmp_path / "elbo.json").write_text(json.dumps(CONFIG), "utf-8")
    (tmp_path / "sweep.yaml").write_text(f"loss: {tmp_path}/elbo.json\nweight: 1.0\ncycles: 4\n")
    (tmp_path / "program.py").write_text(HYDRA, "utf-8")
    options = ("weight=0.5,2.0", "cycles=1,3", "hydra.sweep.dir=runs", "hydra.job.chdir=true")
    subprocess.run(  # noqa: S603
        [sys.executable, "program.py", "-m", *options],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    used = [LossConfig.read(path) for path in sorted(tmp_path.glob("runs/*/used.json"))]
    found = {(c.terms["kl"].weight, c.terms["kl"].schedule.cycles) for c in used}  # type: ignore[union-attr]
    assert found == {(weight, cycles) for weight in (0.5, 2.0) for cycles in (1, 3)}


def test_a_grid_of_ray_tune(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray import tune

    config = LossConfig.read(CONFIG)

    def train(params: dict[str, Any]) -> dict[str, float]:
        return {"nll": 10 + config.override(params).terms["kl"].weight}

    ray.init(num_cpus=1, include_dashboard=False)
    try:
        results = tune.Tuner(
            train,
            param_space={"kl.weight": tune.grid_search([0.5, 2.0])},
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    assert sorted(each.metrics["nll"] for each in results) == [10.5, 12.0]
