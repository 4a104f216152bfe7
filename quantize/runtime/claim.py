"""Which job a place belongs to, and whether this one may go on there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..exceptions import StoreError
from ..numerics.scales import Rule
from ..store.growth import Growth, without_growth
from ..store.layout import Layout
from ..store.metadata import Metadata
from ..store.retrying import retried
from .cluster import check_destination, check_workers
from .look import keeps_zero
from .plan import Plan
from .tasks import Tasks

CHANGED = "source changed"  # a key of the fingerprint of a run that cannot be gone on with


@dataclass(frozen=True)
class Claim:
    """One job's claim to the place of its variable."""

    plan: Plan
    work: Tasks

    @functools.cached_property
    def sample(self) -> str | None:
        """Digest of the source's ends."""
        return retried(self.work.units.source.digest)()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What makes it this job: the source's shape, dtype and ends, and every setting that decides a byte."""
        layout = self.plan.layout
        return {
            "source": {"shape": list(layout.shape), "dtype": str(layout.dtype), "sample": self.sample},
            "settings": settings_said(layout, self.plan.rule, self.plan.missing, self.work.units.source.remembered),
        }

    def take(self, overwrite: bool) -> tuple[Metadata, bool]:
        """The metadata to go on from: a new variable's, this job's own, or with `overwrite` one in another's place.

        And whether it was this run that began the variable. The workers of a cluster are asked whether they can do the
        job.

        Raises
        ------
        StoreError
            If the place is another job's, or holds something else.
        ValueError
            If there is not enough room on the disk.
        WorkersError
            If a worker of the cluster cannot do the job.
        """
        on_cluster = self.plan.scheduler == "distributed"
        if on_cluster:
            check_workers(self.work.units.source, self.sample)
        metadata, begun = self.taken(overwrite)
        if on_cluster:
            check_destination(self.work.variable, metadata)
        return metadata, begun

    def taken(self, overwrite: bool) -> tuple[Metadata, bool]:
        variable, begun = self.work.variable, False
        new = self.new_metadata()
        variable.mend(new)
        variable.check_place(self.plan.rule.granularity)
        try:
            old = variable.metadata()
        except StoreError:
            if not (overwrite and variable.is_ours()):
                raise
        else:
            if old is None:
                self.check_disk(self.plan.units)
                old, begun = variable.created(new)
            if old.fingerprint == new.fingerprint:
                done = variable.member and old.status == "sealed"  # by this run of the collection, or one of its job
                if not overwrite or done or self.resumable(old):
                    if old.status != "sealed":
                        self.check_disk(int((~variable.present(old.layout)).sum()))
                    return old, begun
            elif not overwrite:
                self.check_not_grown(old)
                state = "whole" if old.status == "sealed" else "unfinished"
                raise StoreError(
                    f"{variable.where} is there already, {state}, of another job: "
                    f"{difference(without_growth(old), new.fingerprint)}. Pass overwrite=True to replace it"
                )
        self.check_disk(self.plan.units, variable.keys.size(variable.folder))
        found = variable.overwrite(new)
        return found, found is new

    def check_not_grown(self, old: Metadata) -> None:
        """Refuse, with a StoreError, what this very job has made, and has become longer since."""
        growth, fingerprint = Growth.of(old), self.fingerprint
        if growth is None or without_growth(old) != fingerprint:
            return
        first, now = fingerprint["source"]["shape"], old.layout.shape
        more = [f"{n - m:,} along axis {axis}" for axis, (m, n) in enumerate(zip(first, now, strict=True)) if n > m]
        raise StoreError(
            f"{self.work.variable.where} is there already, whole, of this job, and {' and '.join(more)} were appended "
            "since. Nothing is left to do: open it. Pass overwrite=True to begin again, without what was appended"
        )

    def new_metadata(self) -> Metadata:
        """The metadata that this job begins with."""
        plan, source = self.plan, self.work.units.source
        return Metadata(
            layout=plan.layout,
            rule=plan.rule,
            missing=plan.missing,
            fingerprint=self.fingerprint,
            attributes=source.attributes,
            dimension_names=source.dimension_names,
            name=self.work.variable.name,
            version=self.work.variable.version_for(plan.rule.granularity),
            keep_zero=plan.rule.granularity.fraction > 1 and keeps_zero(source),
            decoding=source.remembered,
        )

    def resumable(self, old: Metadata) -> bool:
        """Whether this job's variable is unfinished, and has what pass 2 needs of pass 1."""
        if old.status != "writing" or self.plan.passes == 1 or self.work.scans.exist():
            return old.status != "sealed"
        return bool(self.work.variable.present(self.plan.layout).all())

    def check_disk(self, units: int, freed: int = 0) -> None:
        """Refuse a destination without room for so many units, where so many bytes will be freed first."""
        plan = self.plan
        need = -(-plan.disk * units // plan.units)
        if plan.free is not None and need > plan.free + freed:
            raise ValueError(
                f"not enough disk at {plan.destination}: what is to be written takes up to {need:,} bytes, "
                f"and {plan.free + freed:,} are free. Make room, or name another destination"
            )


def settings_said(
    layout: Layout, rule: Rule, missing: float | int | None, decoding: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a job that decide a byte, as its fingerprint has them."""
    optional = {
        "axis": rule.granularity.axis,
        "blocks": rule.granularity.blocks and list(rule.granularity.blocks),
        "finest": rule.finest,
        "percentile": rule.method.percentile,
        "decoding": decoding,
    }
    return {
        "scale_method": rule.method.name,
        "value_range": rule.to_json()["value_range"],
        "nan_policy": rule.nan_policy,
        "missing": str(missing),
        "chunks": list(layout.chunks),
        "shards": list(layout.shards) if layout.shards else None,
        "compressor": {"name": layout.compressor.name, **layout.compressor.options},
        **{key: value for key, value in optional.items() if value is not None},
    }


def difference(old: Any, new: Any, path: str = "") -> str:
    """Where two fingerprints differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [difference(old.get(key), new.get(key), key) for key in {**old, **new}]
        return ", ".join(part for part in parts if part)
    if old == new:
        return ""
    if path == CHANGED:
        return "its source changed while it was read"
    return "the values of the source" if path == "sample" else f"{path} was {old} and is {new}"
