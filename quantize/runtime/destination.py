"""Where a collection is written: the place is taken, cleared of what was there, and sealed in the end."""

from __future__ import annotations

from dataclasses import dataclass

from ..exceptions import StoreError
from ..storage import drop_consolidated, group_data, listed, names_in
from ..store.growth import JOURNAL
from ..store.keys import Keys
from ..store.manifest import KEY, MOST, Manifest, Standing, folder_of_group, is_folder, is_ours, manifest_of
from ..store.places import name_of
from ..store.zarr_json import group_document, node_type, own_header
from .claim import difference as differs
from .dataset_plan import DatasetPlan


@dataclass(frozen=True)
class Destination:
    """The group that the collection of a plan is written into."""

    plan: DatasetPlan
    keys: Keys

    def take(self, new: Manifest, overwrite: bool) -> Manifest:
        """The manifest to go on from: new, this job's own, or with `overwrite` one in the place of another's.

        Raises
        ------
        StoreError
            If the place is another job's, or holds something else.
        ValueError
            If there is not enough room on the disk, or if two variables would lie in one folder.
        """
        keys = self.keys
        self.mend(new)
        if group_data(keys) is None:
            self.check_place()
            self.check_disk()
            drop_consolidated(keys)
            keys.set_new(KEY, new.to_json())
        with keys.locked(""):
            now = self.taken(new, overwrite)
        return self.without_replaced(now) if now.replaced else now

    def taken(self, new: Manifest, overwrite: bool) -> Manifest:
        """As `take`, of a place that has a manifest, and before anything is removed. Others wait meanwhile."""
        keys = self.keys
        self.check_cases(new)
        tag = keys.tag(KEY, MOST)
        try:
            old = manifest_of(keys)
        except StoreError:
            if not (overwrite and is_ours(group_data(keys) or b"")):
                raise
            places = [name for name in names_in(keys) if name_of(name) is not None]
        else:
            if old is None:
                raise StoreError(f"{keys.label} is no collection of this library: name another destination")
            if old.job == new.job and not (overwrite and old.status == "sealed"):
                if old.status != "sealed" and not keys.holds(KEY, old.to_json()):
                    keys.replace(KEY, old.to_json(), tag)  # without what others put there, as consolidated metadata
                return old
            if not overwrite:
                self.check_not_grown(old, new)
                state = "whole" if old.status == "sealed" else "unfinished"
                raise StoreError(
                    f"{keys.label} is a collection already, {state}, of another job: {difference(old, new)}. Pass "
                    "overwrite=True to replace it"
                )
            places = [*old.folders, *old.replaced]
        marked = new.at("replacing", tuple(sorted({*places, *new.folders})))
        if keys.replace(KEY, marked.to_json(), tag) is None:  # others have changed it since
            return self.taken(new, overwrite)
        return marked

    def check_not_grown(self, old: Manifest, new: Manifest) -> None:
        """Refuse, with a StoreError, what this very job has made, and has become longer since."""
        if not old.continues(new.job, None):
            return
        name = next(member.name for member in old.members if member.appended)
        lengths = enumerate(zip(new[name].shape, old[name].shape, strict=True))
        more = [f"{n - m:,} along axis {axis} of {name}" for axis, (m, n) in lengths if n > m]
        raise StoreError(
            f"{self.keys.label} is a collection already, whole, of this job, and {' and '.join(more)} were appended "
            "since. Nothing is left to do: open it. Pass overwrite=True to begin again, without what was appended"
        )

    def mend(self, new: Manifest) -> None:
        """Write the manifest again where the store took only its beginning, and that shows that it is this job's."""
        found, tag = self.keys.tagged(KEY, MOST) or (None, None)
        if found is None or found.endswith(b"\n}"):  # as a whole one ends, and no beginning
            return
        for whole in (new, new.at("sealed")):
            if whole.to_json().startswith(found) and (
                found.startswith(whole.head) or not any(is_folder(name) for name in names_in(self.keys) if name != KEY)
            ):
                self.keys.replace(KEY, new.to_json(), tag)
                return

    def without_replaced(self, marked: Manifest) -> Manifest:
        """Remove what an earlier collection left, of which the manifest says that it is to go.

        Raises
        ------
        StoreError
            If another job has taken the place meanwhile.
        """
        keys = self.keys
        for place in sorted(marked.replaced, reverse=True):  # what lies in a group before the group
            with keys.locked(place):  # those who looked at the manifest before have ended
                if bytes(keys.view(KEY, 0, len(marked.head)) or b"") != marked.head:
                    break
                keys.delete(f"{place}/zarr.json")
                keys.delete_all(place)
        with keys.locked(""):
            found, tag = keys.tagged(KEY, MOST) or (None, None)
            new = marked.at("writing")
            if found == marked.to_json():
                keys.delete(JOURNAL)  # of an append to what was there
            if found == marked.to_json() and keys.replace(KEY, new.to_json(), tag) is not None:
                return new
        now = manifest_of(keys)
        if now is None or now.job != marked.job or now.replaced:
            raise StoreError(f"{keys.label} was taken over by another job while this one was overwriting it")
        return now

    def check_place(self) -> None:
        """Refuse, with a StoreError, a place that holds something else."""
        keys = self.keys
        keys.check_place()
        for outer in keys.enclosing:
            document = group_data(outer) or b""
            if outer.holds_keys(".zarray") or node_type(document) == "array" or own_header(document):
                raise StoreError(f"{keys.label} lies in {outer.label}, an array or a collection: take another place")
        if keys.holds_keys("") and group_data(keys) is None:
            raise StoreError(f"{keys.label} is there already, and is no collection: name another destination")
        keys.check_name()

    def check_cases(self, new: Manifest) -> None:
        """Refuse, with a ValueError, names that differ in case alone where the file system does not tell these apart.

        What was made to find that out is removed.
        """
        folders: dict[str, str] = {}
        for folder in new.folders:
            other = folders.setdefault(folder.lower(), folder)
            if other != folder and self.keys.get(KEY.upper()) is not None:
                if self.keys.holds(KEY, new.to_json()):
                    self.keys.delete(KEY)
                    self.keys.remove_empty("")
                raise ValueError(
                    f"{other!r} and {folder!r} would be one folder in {self.keys.label}, which does not tell capitals "
                    "from small letters: take another place, or leave one out by drop="
                )

    def check_disk(self) -> None:
        if self.plan.free is not None and self.plan.disk > self.plan.free:
            raise ValueError(
                f"not enough disk at {self.keys.label}: what is to be written takes up to {self.plan.disk:,} bytes, "
                f"and {self.plan.free:,} are free. Make room, or name another destination"
            )

    def make_groups(self, standing: Standing, manifest: Manifest) -> None:
        with standing.changing() as stands:
            for path in manifest.group_paths[1:] if stands else ():
                key = f"{folder_of_group(path)}/zarr.json"
                self.keys.settle(key, group_document(), standing.stands)

    def seal(self, standing: Standing, sealed: Manifest, durable: bool) -> None:
        """Mark the collection whole, once each variable is.

        Raises
        ------
        StoreError
            If another job has taken its place.
        """
        keys = self.keys
        keys.sweep("")
        drop_consolidated(keys)  # of groups that it lies in: others may have written them since
        if durable:
            keys.flush("")
        standing.seal(sealed)
        if durable:
            keys.flush("", below=False)


def difference(old: Manifest, new: Manifest) -> str:
    """Where two collections differ, in words."""
    before, now = ({member.name: member for member in one.members} for one in (old, new))
    for what, names in (("has no", now.keys() - before.keys()), ("has also", before.keys() - now.keys())):
        if names:
            return f"it {what} {listed(sorted(names))}"
    for name, member in now.items():
        if said := differs(before[name].to_json(), member.to_json()):
            return f"of {name}, {said}"
    return "the attributes of its groups"
