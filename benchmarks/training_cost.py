"""Tell what training takes by every recipe of MotivNet, by calculation: parameters, arithmetic, memory, hours.

Takes a few minutes, and no memory to speak of. The table goes to `benchmarks/results/training_cost.json`, and between
its marks into `docs/benchmarks.md`.

    python benchmarks/training_cost.py [--only RECIPE ...]
"""

import argparse
import sys
from typing import Any

from tables import PAGE, fill_block, markdown_table, write_results

from motivnet import config
from motivnet.models.cost import num_parameters
from motivnet.training.estimate import count, fits, meta_model, step_memory
from motivnet.training.recipes import MOTIVNET_WEIGHTS, recipe
from motivnet.training.settings import Place

DEVICES_GB = (24, 48, 80)
# Of AffectNet's training images: those of disgust, the rarest, less the share that is held out, of each class.
IMAGES_PER_EPOCH = 7 * 3613
# bfloat16 without sparsity, by its maker's data sheet, and the share of it that training of transformers reaches.
A100_TFLOPS = 312
UTILISATION = 0.4


def main() -> None:
    """Calculate every row, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MOTIVNET_WEIGHTS, default=list(MOTIVNET_WEIGHTS))
    options = parser.parse_args()
    rows = []
    for name in options.only:
        print(name, file=sys.stderr)
        rows.append(calculate(name))
    table = markdown_table([table_row(row) for row in rows])
    print(table)
    if set(options.only) == set(MOTIVNET_WEIGHTS):
        assumed = {"images_per_epoch": IMAGES_PER_EPOCH, "peak_tflops": A100_TFLOPS, "utilisation": UTILISATION}
        path = write_results("training_cost", {"assumed": assumed, "rows": rows})
        fill_block(PAGE, "training-cost", table)
        print(f"written: {path}, {PAGE}", file=sys.stderr)


def calculate(name: str) -> dict[str, Any]:
    """Calculate one recipe on one device, without recomputation, and shared out over four devices."""
    chosen = recipe(name)
    plain = config.override(chosen, ["backbone.recompute=false"])
    tokens, flops = count(chosen)
    memory = step_memory(chosen, Place())
    return {
        "recipe": name,
        "input": "x".join(map(str, chosen.model.image_size)),
        "parameters": num_parameters(meta_model(chosen)),
        "tokens": tokens,
        "images_per_step": chosen.run.batch_size * chosen.run.accumulate,
        "epochs": chosen.run.epochs,
        "flops_per_image": flops,
        "flops_per_image_without_recompute": count(plain)[1],
        "memory": config.to_plain(memory),
        "memory_without_recompute": config.to_plain(step_memory(plain, Place())),
        "memory_fsdp_4": config.to_plain(step_memory(chosen, Place(devices=4, strategy="fsdp"))),
        "fits": {str(size): fits(memory, size * 10**9) for size in DEVICES_GB},
        "a100_hours": chosen.run.epochs * IMAGES_PER_EPOCH * flops / (UTILISATION * A100_TFLOPS * 1e12) / 3600,
    }


def table_row(row: dict[str, Any]) -> dict[str, object]:
    """Lay out one recipe."""
    sizes = [size for size in DEVICES_GB if row["fits"][str(size)]]
    return {
        "recipe": row["recipe"],
        "parameters": f"{row['parameters'] / 1e9:.3g} B",
        "TFLOPs an image": f"{row['flops_per_image'] / 1e12:.3g}",
        "TFLOPs a step": f"{row['images_per_step'] * row['flops_per_image'] / 1e12:,.0f}",
        "GB": f"{row['memory']['total'] / 1e9:.1f}",
        "GB without recomputing": f"{row['memory_without_recompute']['total'] / 1e9:.1f}",
        "GB each, fsdp on 4": f"{row['memory_fsdp_4']['total'] / 1e9:.1f}",
        **{f"fits {size} GB": "yes" if size in sizes else "no" for size in DEVICES_GB},
        "hours on one A100, without validation": f"{row['a100_hours']:,.1f}",
    }


if __name__ == "__main__":
    main()
