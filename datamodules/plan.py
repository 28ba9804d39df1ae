"""The order of the data as a pure function of (seed, epoch, position).

It knows nothing of ranks, workers or batches on the way: whoever serves position p serves the same sample, so a run
can be resumed in the middle of an epoch, with other ranks or workers, and sees what it would have seen.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]


class Plan:
    """Which sample of which source stands at each position of an epoch.

    shard_sizes: for each source the number of samples in each of its shards.
    weights: how often each source is drawn, in any scale; None takes every sample of every source once, or
    repeats: how many times those of each source.
    seed: fixes the order; None means no shuffling: the sources one after the other, as written.
    samples: positions in an epoch; None is the number of samples of all sources together, with their repeats.
    window: samples are shuffled within stretches of this length of the shuffled shards, so that reads stay local.
    run: so many positions in a row come from one source (a global batch, for batches of a single source).
    """

    def __init__(
        self,
        shard_sizes: Sequence[Sequence[int]],
        weights: Sequence[float] | None = None,
        seed: int | None = 0,
        samples: int | None = None,
        window: int = 1024,
        run: int = 1,
        repeats: Sequence[int] | None = None,
    ) -> None:
        self.shard_sizes = [np.asarray(sizes, np.int64) for sizes in shard_sizes]
        self.counts = [int(sizes.sum()) for sizes in self.shard_sizes]
        if not self.counts or min(self.counts) == 0:
            raise ValueError("a source of the data has no sample")
        if weights is not None and (len(weights) != len(self.counts) or min(weights) <= 0):
            raise ValueError(f"weights {list(weights)}: one positive number for each of {len(self.counts)} sources")
        if repeats is not None and (weights is not None or len(repeats) != len(self.counts) or min(repeats) < 1):
            raise ValueError(
                f"repeats {list(repeats)}: one number from 1 on for each of {len(self.counts)} sources, and no weights"
            )
        if seed is None and not (weights is None and repeats is None and samples is None):
            raise ValueError("without shuffling every sample is taken once; weights, repeats and samples need a seed")
        self.weights, self.seed, self.window, self.run = weights, seed, window, run
        self._shares = [n * times for n, times in zip(self.counts, repeats or [1] * len(self.counts), strict=True)]
        self.samples = samples or sum(self._shares)
        self._memory: dict[tuple[str, int, int], Order] = {}

    def __call__(self, epoch: int, position: int) -> tuple[int, int]:
        """(source, index of the sample in the source) at a position in [0, samples)."""
        if self.seed is None:
            source = int(np.searchsorted(np.cumsum(self.counts), position, side="right"))
            return source, position - sum(self.counts[:source])
        source = self.source(epoch, position)
        lap, index = divmod(int(self._ranks(epoch)[position]), self.counts[source])
        return source, int(self._order(source, epoch, lap)[index])

    def source(self, epoch: int, position: int) -> int:
        """The source alone, which takes far less memory: no order of its samples."""
        return self(epoch, position)[0] if self.seed is None else int(self._sources(epoch)[position])

    def _sources(self, epoch: int) -> Order:
        """int[samples]: the source of each position."""
        return self._remember(("sources", 0, epoch), lambda: self._draw_sources(epoch))

    def _draw_sources(self, epoch: int) -> Order:
        rng = np.random.default_rng([self.seed or 0, 1, epoch])
        runs = -(-self.samples // self.run)
        if self.weights is not None:
            drawn = rng.choice(len(self.counts), runs, p=np.asarray(self.weights) / np.sum(self.weights))
        else:
            drawn = np.repeat(np.arange(len(self.counts)), [-(-n // self.run) for n in self._shares])
            drawn = np.resize(rng.permutation(drawn), runs)
        return np.repeat(drawn, self.run)[: self.samples]

    def _ranks(self, epoch: int) -> Order:
        """int[samples]: how many earlier positions of the epoch have the same source."""

        def count() -> Order:
            sources, ranks = self._sources(epoch), np.empty(self.samples, np.int64)
            for source in range(len(self.counts)):
                mine = sources == source
                ranks[mine] = np.arange(mine.sum())
            return ranks

        return self._remember(("ranks", 0, epoch), count)

    def _order(self, source: int, epoch: int, lap: int) -> Order:
        """int[count]: the samples of a source in the order of one pass over it."""

        def shuffle() -> Order:
            rng = np.random.default_rng([self.seed or 0, 2, source, epoch, lap])
            sizes = self.shard_sizes[source]
            starts = np.cumsum(sizes) - sizes
            shards = rng.permutation(len(sizes))
            order = np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in shards])
            for begin in range(0, len(order), self.window):
                rng.shuffle(order[begin : begin + self.window])
            return order

        return self._remember((f"order {source}", lap, epoch), shuffle)

    def _remember(self, key: tuple[str, int, int], make: "object") -> Order:
        """Keep the newest array of each kind: a pass moves forward."""
        if key not in self._memory:
            self._memory = {k: v for k, v in self._memory.items() if k[0] != key[0]}
            self._memory[key] = make()  # type: ignore[operator]
        return self._memory[key]
