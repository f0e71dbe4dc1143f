"""The curves of a run: a row for each step, cut off where a resumed run goes on."""

import csv
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from motivnet.training.callbacks.csv_logger import CsvFile, Curve


def written(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    file = CsvFile(path, ["step", "loss"], until=0)
    file.write([1, 0.5])
    assert written(path) == ["step,loss", "1,0.5"]  # while it is open
    file.close()


def test_it_is_cut_off_behind_a_step(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n4,0.")  # the last row half written
    CsvFile(path, ["step", "loss"], until=4).close()
    assert written(path) == ["step,loss", "1,0.5", "2,0.4", "3,0.3"]
    file = CsvFile(path, ["step", "loss"], until=2)
    file.write([3, 0.25])
    file.close()
    assert written(path) == ["step,loss", "1,0.5", "2,0.4", "3,0.25"]
    CsvFile(path, ["step", "loss"], until=0).close()
    assert written(path) == ["step,loss"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


class Line(lightning.LightningModule):
    """One number, pulled up by losses that are known beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return batch.mean() + 0 * self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/score", batch.mean())

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.SGD([{"name": "only", "params": [self.weight], "lr": 1.0}])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.filterwarnings("ignore")
def test_a_step_is_the_mean_of_its_batches(tmp_path: Path, silent_trainer: Callable[..., lightning.Trainer]) -> None:
    train = DataLoader([1.0, 2.0, 4.0, 8.0, 16.0], batch_size=1)  # type: ignore[arg-type]
    trainer = silent_trainer(callbacks=[Curve(tmp_path)], max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(Line(), train, DataLoader([3.0]))  # type: ignore[arg-type]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"], row["loss"]) for row in rows] == [
        ("1", "0", "1.5"),
        ("2", "0", "6"),
        ("3", "0", "16"),  # the last batch of an epoch is a step by itself
        ("4", "1", "1.5"),
        ("5", "1", "6"),
        ("6", "1", "16"),
    ]
    # The learning rate is the one of the step itself, not of the next.
    assert [float(row["lr_only"]) for row in rows] == pytest.approx([1 / step for step in range(1, 7)])
    assert written(tmp_path / "validation.csv") == [
        "step,epoch,train_loss,score",
        "3,0,7.83333333,3",
        "6,1,7.83333333,3",
    ]
