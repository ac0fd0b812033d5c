# SPDX-License-Identifier: Apache-2.0
"""Images of dashed paths: do two discs lie at the ends of one path or of two?"""

from dataclasses import dataclass

import numpy as np

DASHES = {32: 6, 64: 9, 128: 14}  # of the long paths, by the size of the image
LINE_WIDTH, DISC_RADIUS = 1.0, 1.5  # pixels, as all lengths here
# round ends add half a width to each end of a line: dashes look 3 long, gaps 1 to 2
DASH, GAP, TURN = 2.0, (2.0, 3.0), 0.6  # of lines; radians
APART = 4.0  # between the lines of two paths, 3 between what is drawn of them
MARGIN = 2.0  # between a line and the frame
SPACING = 1.0  # between the points that stand for a path
ALIKE = 1 / 32  # of the size: how far the discs of the two labels may differ in distance
CANDIDATES, TRIES = 64, 8


@dataclass(frozen=True)
class Scene:
    """What an image shows, in pixels; (0, 0) is the outer corner of the first one.

    Attributes:
        dashes: [K, 2, 2], both ends of every dash.
        discs: [2, 2], the centres.
        connected: whether the discs lie at the ends of one path.
    """

    dashes: np.ndarray
    discs: np.ndarray
    connected: bool


@dataclass(frozen=True)
class Pathfinder:
    """Square images with two long paths of n dashes, n short ones of n / 3, and two discs.

    Dashes are 3 pixels long and 1 to 2 apart; from one to the next a path turns by at most 0.6
    radians, uniformly. Paths start anywhere in any direction and are drawn anew when they leave
    the frame or come within 3 pixels of another one; an image whose paths find no room is begun
    anew. n is 6, 9 and 14 at 32, 64 and 128 pixels. Of the discs each lies at an end of a long
    path: both of one (label 1), or one of each (label 0). Every image has room for either, with
    the discs as far from each other and their middle as far from the centre, to 1/32 of the
    size: without that their distance alone tells the label of seven images in eight.

    In the style of "Learning long-range spatial dependencies with horizontal gated recurrent
    units" (arXiv 1805.08315), whose images these are not.

    Raises:
        ValueError: another size.
    """

    size: int = 32

    def __post_init__(self) -> None:
        if self.size not in DASHES:
            raise ValueError(
                f"the size of images must be one of {', '.join(map(str, DASHES))}, got {self.size}"
            )

    def example(self, random: np.random.Generator, connected: bool) -> np.ndarray:
        """An image, uint8 [size, size]: 0 where nothing is."""
        return draw(self.scene(random, connected), self.size)

    def scene(self, random: np.random.Generator, connected: bool) -> Scene:
        """Paths and discs, drawn again until all find room."""
        n = DASHES[self.size]
        while True:
            paths: list[_Paths] = []
            self._place(random, n, paths)
            mixed = self._place_rival(random, n, paths)
            if mixed is None or not all(self._place(random, n // 3, paths) for _ in range(n)):
                continue
            dashes = np.concatenate([path.dashes[0] for path in paths])
            return Scene(dashes, paths[0].ends[0] if connected else mixed, connected)

    def _place(self, random: np.random.Generator, n: int, paths: list["_Paths"]) -> bool:
        """Add a path of n dashes to `paths`; whether there is room for it."""
        for _ in range(TRIES):
            free = self._free(random, n, paths)
            if len(free.dashes):
                paths.append(free[:1])
                return True
        return False

    def _place_rival(
        self, random: np.random.Generator, n: int, paths: list["_Paths"]
    ) -> np.ndarray | None:
        """Add a second path, one end of which may stand for one of the first: those two ends.

        They are as far from each other, and their middle from the centre, as both of the first.
        """
        for _ in range(TRIES):
            free = self._free(random, n, paths)
            own = paths[0].ends
            mixed = np.stack(np.broadcast_arrays(own[:, :, None], free.ends[:, None]), 3)
            mixed = mixed.reshape(-1, 2, 2)  # four pairs for each free path
            differences = np.abs(_spread(mixed, self.size) - _spread(own, self.size)).max(1)
            alike = np.flatnonzero(differences < ALIKE * self.size)
            if len(alike):
                paths.append(free[alike[0] // 4 :][:1])
                return mixed[alike[0]]
        return None

    def _free(self, random: np.random.Generator, n: int, paths: list["_Paths"]) -> "_Paths":
        """Of some paths of n dashes, those inside the frame and apart from `paths`."""
        drawn = _candidates(random, n, self.size)
        inside = (drawn.points > MARGIN) & (drawn.points < self.size - MARGIN)
        free = drawn[np.flatnonzero(inside.all((1, 2)))]
        if not paths:
            return free
        return free[_apart(free.points, np.concatenate([path.points[0] for path in paths]))]


@dataclass(frozen=True)
class _Paths:
    """Dashes [k, n, 2, 2] of k paths, and points [k, m, 2] on their lines."""

    dashes: np.ndarray
    points: np.ndarray

    def __getitem__(self, chosen: slice | np.ndarray) -> "_Paths":
        return _Paths(self.dashes[chosen], self.points[chosen])

    @property
    def ends(self) -> np.ndarray:
        """[k, 2, 2]"""
        return np.stack((self.dashes[:, 0, 0], self.dashes[:, -1, 1]), 1)


def _spread(pairs: np.ndarray, size: int) -> np.ndarray:
    """[m, 2]: how far points [m, 2, 2] are from each other, and their middle from the centre."""
    apart = np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=-1)
    return np.stack((apart, np.linalg.norm(pairs.mean(1) - size / 2, axis=-1)), 1)


def _candidates(random: np.random.Generator, n: int, size: int) -> _Paths:
    """CANDIDATES paths of n dashes that start anywhere in any direction."""
    shape = (CANDIDATES, n)
    turns = random.uniform(-TURN, TURN, shape)
    turns[:, 0] = random.uniform(0, 2 * np.pi, CANDIDATES)
    heading = turns.cumsum(1)
    step = np.stack((np.cos(heading), np.sin(heading)), -1)
    gaps = random.uniform(*GAP, shape)
    # the gap before a dash lies on the dash's own line
    reach = (step * (gaps + DASH)[..., None]).cumsum(1)
    start = random.uniform(MARGIN, size - MARGIN, (CANDIDATES, 1, 2))
    ends = start + reach - step[:, :1] * gaps[:, :1, None]
    starts = ends - step * DASH
    dashes = np.stack((starts, ends), 2)
    along = np.arange(0, DASH + GAP[1], SPACING)
    points = (
        ends[:, :, None] - step[:, :, None] * np.minimum(along, (gaps + DASH)[..., None])[..., None]
    )
    # the first dash has no gap before it
    points[:, 0] = ends[:, :1] - step[:, :1] * np.minimum(along, DASH)[:, None]
    return _Paths(dashes, points.reshape(CANDIDATES, -1, 2))


def _apart(paths: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[n] bool: whether paths [n, m, 2] keep away from all points taken [K, 2]."""
    # |p - q|^2 by a matrix product: an array of differences takes eight times as long
    squares = (paths**2).sum(-1)[..., None] + (taken**2).sum(-1) - 2 * paths @ taken.T
    return (squares > APART**2).all((1, 2))


def draw(scene: Scene, size: int) -> np.ndarray:
    """A scene as an image, uint8 [size, size]; the part of a pixel that is covered is its grey."""
    width = int(2 * (DASH / 2 + LINE_WIDTH + 1))  # of a window around a dash or a disc
    a = np.concatenate((scene.dashes[:, 0], scene.discs))
    b = np.concatenate((scene.dashes[:, 1], scene.discs))
    radius = np.full(len(a), LINE_WIDTH / 2)
    radius[-len(scene.discs) :] = DISC_RADIUS
    corner = np.floor((a + b) / 2 - width / 2 + 0.5).astype(int)
    offsets = np.stack(np.meshgrid(np.arange(width), np.arange(width), indexing="ij"), -1)
    pixels = corner[:, None] + offsets.reshape(1, -1, 2)  # [K, width^2, 2]
    coverage = np.clip(radius[:, None] + 0.5 - _distance(pixels + 0.5, a, b), 0, 1)
    inside = ((pixels >= 0) & (pixels < size)).all(-1)
    image = np.zeros((size, size))
    np.maximum.at(image, tuple(pixels[inside].T), coverage[inside])
    return np.rint(255 * image).astype(np.uint8)


def _distance(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[K, m] from points [K, m, 2] to the segments from a [K, 2] to b [K, 2]."""
    along = (b - a)[:, None]
    length = np.maximum((along**2).sum(-1), 1e-12)
    part = np.clip(((points - a[:, None]) * along).sum(-1) / length, 0, 1)
    return np.linalg.norm(points - a[:, None] - part[..., None] * along, axis=-1)
