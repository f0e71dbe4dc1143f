"""What gradients tell of a run that goes wrong, and when the diagnostics warn."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from motivnet.errors import ConfigError

# Gradient norms that "usual" is the median of, and how few of them say nothing yet.
USUAL_LOOKS, FEWEST_LOOKS = 50, 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosticsConfig:
    """When to warn.

    Args:
        every: optimizer steps from one look at gradients, weights and memory to the next.
        early_epochs: epochs within which an encoder should not converge; judged after twice as many.
        early_share: of the fall of the training loss until then, the share that is convergence.
        fast_change: relative change of the encoder's weights in one step, the median of all looks, below which it is
            not the encoder that converged.
        low_recall: of a class, that counts as not recognised.
        patience: validations in a row with such a recall, and looks in a row at a gradient of zero, before a warning.
        dead_share: of all trained tensors, how many may have no gradient.
        exploding: norm of all gradients over its median so far.
        gap: accuracy in training less accuracy in validation.
        loss_gap: loss in validation over that in training, less 1; where there is no accuracy.
        memory: share of a device's memory that should stay free.
        waiting: share of an epoch's time that may go by waiting for data; the first epoch, which decodes what later
            ones find in memory, is not judged.
        waiting_seconds: of an epoch that do not matter, whatever their share.
    """

    every: int = 10
    early_epochs: int = 2
    early_share: float = 0.95
    fast_change: float = 1e-4
    low_recall: float = 0.02
    patience: int = 3
    dead_share: float = 0.1
    exploding: float = 20.0
    gap: float = 0.2
    loss_gap: float = 0.5
    memory: float = 0.05
    waiting: float = 0.2
    waiting_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a number that no run can reach or miss.
        """
        if min(self.every, self.early_epochs, self.patience) < 1:
            raise ConfigError("diagnostics: every, early_epochs and patience must be at least 1")
        if self.exploding <= 1:
            raise ConfigError(f"diagnostics: exploding must be above 1, not {self.exploding}")


class Finding(NamedTuple):
    """Something to warn of.

    Attributes:
        kind: of warning.
        about: what it is about, where a kind of warning may be given about several things.
        message: with the number and the remedy.
    """

    kind: str
    about: str
    message: str


class GradientWatch:
    """Remembers what it saw of the gradients of a run.

    Attributes:
        norms: of all gradients together, of the last looks.
    """

    def __init__(self, config: DiagnosticsConfig) -> None:
        """Begin.

        Args:
            config: when to warn.
        """
        self.norms: list[float] = []
        self._config = config
        self._zero_looks: Counter[str] = Counter()
        self._infinite_looks = 0

    def look(
        self, groups: Mapping[str, Sequence[str]], norms: Mapping[str, float], *, scaled: bool
    ) -> Iterator[Finding]:
        """Look at the gradients of a step.

        Args:
            groups: of parameters, by name, and the names of what is in them.
            norms: of each parameter's gradient.
            scaled: whether the loss is scaled until no gradient overflows.
        """
        infinite = [name for name, norm in norms.items() if not math.isfinite(norm)]
        self._infinite_looks = self._infinite_looks + 1 if infinite else 0
        if infinite:
            if self._infinite_looks >= (self._config.patience if scaled else 1):
                yield Finding(
                    "infinite gradients",
                    "",
                    f"{len(infinite)} of {len(norms)} gradients are no finite numbers, such as that of {infinite[0]}. "
                    "What helps: lower learning rates, optimizer.clip_norm=1, a longer optimizer.warmup, or "
                    "run.precision=32-true",
                )
            return
        yield from self._exploding(math.hypot(*norms.values()))
        yield from self._dead(groups, norms, scaled=scaled)

    def _exploding(self, norm: float) -> Iterator[Finding]:
        # Gradients that were zero until now have not exploded.
        usual = (statistics.median(self.norms) if len(self.norms) >= FEWEST_LOOKS else 0.0) or math.inf
        if norm > self._config.exploding * usual:
            yield Finding(
                "exploding gradients",
                "",
                f"the norm of all gradients is {norm:.3g}, {norm / usual:.0f} times its median so far ({usual:.3g}). "
                f"What helps: optimizer.clip_norm={usual:.1g}, lower learning rates, or a longer optimizer.warmup",
            )
        self.norms = [*self.norms, norm][-USUAL_LOOKS:]

    def _dead(
        self, groups: Mapping[str, Sequence[str]], norms: Mapping[str, float], *, scaled: bool
    ) -> Iterator[Finding]:
        zero = [name for name, norm in norms.items() if norm == 0]
        self._zero_looks = Counter({name: self._zero_looks[name] + 1 for name in zero})
        dead = {name for name, looks in self._zero_looks.items() if looks >= self._config.patience}
        when = f"zero at {self._config.patience} looks, {self._config.every} steps apart"
        half = " run.precision=bf16-mixed, since 16-mixed loses small ones;" if scaled else ""
        remedy = f"What helps:{half} lower learning rates, a longer optimizer.warmup, or other weights to start from"
        for group, own in groups.items():
            if dead.issuperset(own):
                message = f"every gradient of the parameter group {group} ({len(own)} tensors) was {when}. {remedy}"
                yield Finding("dead gradients", group, message)
        if len(dead) > self._config.dead_share * len(norms):
            examples = ", ".join(sorted(dead)[:3])
            message = f"{len(dead)} of {len(norms)} gradients were {when}, such as those of {examples}. {remedy}"
            yield Finding("dead gradients", "", message)
