"""A store at ``s3://``, on moto's server in a process of its own: run, kill, resume, read, and what is asked of it."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import boto3
import botocore.exceptions
import numpy as np
import obstore.exceptions
import pytest
import tenacity
import zarr
from click.testing import CliRunner, Result
from collections_of_arrays import JOB as OF_COLLECTION
from collections_of_arrays import Tree, everything
from marks import mostly_slow, slow
from obstore.store import S3Store
from stores import Died, HeldUp, check, field, files, read_while_overwritten
from test_append_deaths import Meanwhile
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, MemoryStore, ObjectStore

from quantize import StoreError, append_to_zarr, discard_append, open_int4, plan, quantize_dataset, quantize_to_zarr
from quantize.cli import commands as cli
from quantize.storage import Variable, variables
from quantize.store.keys import Keys, fsspec_options
from quantize.store.retrying import translated

BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
VALUES = field((32, 12))
JOB: dict[str, Any] = {"chunks": (16, 12), "workers": 1}

# Reads commands from standard input, each with a number, and answers each with a line of JSON. It counts requests,
# goes down once it has taken so many chunks, and answers so many of the next requests with an error.
SERVER = """
import json, random, sys, threading, time
from collections import Counter
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

moto = create_backend_app("s3")
seen, chunks_left, errors, conditions = Counter(), None, [], True
server, port = None, 0

class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass

def start():
    # Not at a port that the system gives to clients: one of theirs would take it while the server is down.
    global server, port
    for _ in range(100):
        tried = port or random.randrange(20_000, 30_000)
        try:
            server = make_server("127.0.0.1", tried, answer, threaded=True, request_handler=Quiet)
        except (OSError, SystemExit):
            time.sleep(0.1)
            continue
        break
    port = tried
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return port

def stop():
    server.shutdown()
    server.server_close()

def answer(environ, start_response):
    global chunks_left
    listing = "list-type=2" in environ["QUERY_STRING"]
    seen["LIST" if listing else environ["REQUEST_METHOD"]] += 1
    conditional = "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
    if errors or (conditional and not conditions):
        code, status = errors.pop() if errors else ("NotImplemented", 501)
        body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>"
        return Response(body, status, mimetype="application/xml")(environ, start_response)
    if environ["REQUEST_METHOD"] == "PUT" and "/data/c/" in environ["PATH_INFO"] and chunks_left is not None:
        chunks_left -= 1
        if chunks_left == 0:
            stop()
    return moto(environ, start_response)

for line in sys.stdin:
    command, *arguments = json.loads(line)
    said = None
    if command == "start":
        chunks_left, said = None, start()
    elif command == "seen":
        said = dict(seen)
        seen.clear()
    elif command == "stop":
        stop()
    elif command == "stop after":
        chunks_left = arguments[0]
    elif command == "conditions":
        conditions = arguments[0]
    elif command == "fail":
        code, status, times = arguments
        errors += [(code, status)] * times
    print(json.dumps(said), flush=True)
"""


class Server:
    """The server, and a client of its own to look past the library."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.url = f"http://127.0.0.1:{self.tell('start')}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="id",
            aws_secret_access_key="secret",
        )
        self.client.create_bucket(Bucket=BUCKET)

    def tell(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def seen(self) -> Counter[str]:
        """Requests of each kind since this was asked last."""
        return Counter(self.tell("seen"))

    def objects(self, name: str) -> dict[str, bytes]:
        """Every key of a store and what it holds."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get("Contents", [])
        keys = [item["Key"] for item in found]
        return {key.removeprefix(f"{name}/"): self.object(key) for key in keys}

    def object(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def remove(self, name: str) -> None:
        for key in self.objects(name):
            self.client.delete_object(Bucket=BUCKET, Key=f"{name}/{key}")

    def close(self) -> None:
        self.client.close()
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One for each process of tests: s3fs keeps what it once opened, and would look for one that is gone."""
    with pytest.MonkeyPatch.context() as patch:
        started = Server()
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": started.url, "AWS_MAX_ATTEMPTS": "1"}.items():
            patch.setenv(name, value)
        yield started
        started.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a store that no other test has."""
    return f"{request.node.name.replace('[', '-').rstrip(']')}.zarr"


@pytest.fixture
def url(server: Server, name: str) -> str:
    return f"s3://{BUCKET}/{name}"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts that were asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", asked.append)
    return asked


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", VALUES)
    return tmp_path / "x.npy"


def quantize(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def object_store(server: Server, name: str) -> ObjectStore:
    options, retry = {"allow_http": True}, {"max_retries": 0}
    store = S3Store(
        BUCKET, prefix=name, endpoint=server.url, region="us-east-1", client_options=options, retry_config=retry
    )
    return ObjectStore(store)


def store_of(kind: str, server: Server, name: str) -> Any:
    """A store at a URL, by s3fs, or the same by obstore."""
    url = f"s3://{BUCKET}/{name}"
    return FsspecStore.from_url(url, fsspec_options(url)) if kind == "s3fs" else object_store(server, name)


# The same as in a folder --------------------------------------------------------------------------------------------

JOBS: dict[str, dict[str, Any]] = {
    "one scale": {},
    "shards": {"chunks": (4, 12), "shards": (16, 12)},
    "columns": {"axis": 1, "scale_method": "percentile"},
    "blocks": {"chunks": (4, 12), "shards": (16, 12), "blocks": (2, 4), "scale_method": "mse"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["url", "obstore"])
def test_a_collection_holds_what_a_folder_would(server: Server, name: str, url: str, tmp_path: Path, kind: str) -> None:
    """One that another was overwritten with."""
    store = url if kind == "url" else object_store(server, name)
    quantize_dataset(Tree(everything()), tmp_path / "z", **OF_COLLECTION)
    quantize_dataset(Tree(everything(3) | {"more": np.arange(3)}), store, **OF_COLLECTION)
    with pytest.raises(StoreError, match="collection already, whole, of another job"):
        quantize_dataset(Tree(everything()), store, **OF_COLLECTION)
    quantize_dataset(Tree(everything()), store, **OF_COLLECTION, overwrite=True)
    assert server.objects(name) == files(tmp_path / "z")
    local, found = open_int4(tmp_path / "z"), open_int4(store)
    assert list(found) == list(local)
    for one in local:
        np.testing.assert_array_equal(found[one][...], local[one][...])


@pytest.mark.parametrize("job", mostly_slow(JOBS, ["shards"]))
@pytest.mark.parametrize("kind", ["url", slow("obstore")])
def test_a_store_holds_what_a_folder_would(
    server: Server, name: str, url: str, tmp_path: Path, kind: str, job: str
) -> None:
    store, options = url if kind == "url" else object_store(server, name), {**JOB, **JOBS[job]}
    quantize_to_zarr(VALUES, tmp_path / "z", **options)
    written = quantize_to_zarr(VALUES, store, **options)
    assert server.objects(name) == files(tmp_path / "z")
    local = open_int4(tmp_path / "z")
    for array in (written, open_int4(store), open_int4(store, "data")):
        np.testing.assert_array_equal(array[...], local[...])
        np.testing.assert_array_equal(array[3:17, ::-2], local[3:17, ::-2])
        np.testing.assert_array_equal(array.packed[...], local.packed[...])
        assert array.nbytes_stored == local.nbytes_stored


def test_a_source_at_s3(server: Server, name: str, url: str, tmp_path: Path) -> None:
    zarr.create_array(f"{url}/group/x", data=VALUES, chunks=(8, 12))
    assert plan(f"{url}/group/x", tmp_path / "z").source == f"{url}/group/x"
    check(quantize_to_zarr(f"{url}/group/x", tmp_path / "z"), VALUES)
    with pytest.raises(FileNotFoundError, match=f"{url}/nothing holds no Zarr array or group"):
        plan(f"{url}/nothing", tmp_path / "z")


def test_the_command_line(server: Server, url: str, source: Path, tmp_path: Path) -> None:
    done = quantize("run", source, url, "--chunks", "8,12", "--durable")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"wrote {url}/data in ")
    assert f"open_int4('{url}')" in done.stdout
    assert quantize("run", source, url, "--chunks", "8,12").stdout.startswith("nothing to do")
    assert f"destination  {url}/data" in quantize("plan", source, url).stdout
    assert quantize("info", url).stdout.startswith(f"{url}/data\n")
    assert quantize("verify", url, source).stdout == f"4 of 4 chunks are whole, with the codes of {source}\n"
    assert quantize("restore", url, tmp_path / "back.npy").exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), open_int4(url)[...])


# Deaths -------------------------------------------------------------------------------------------------------------


class DyingStore(FsspecStore):
    """A store whose process dies at its change number `left`, half-way if that deletes several keys.

    From then on nothing is changed or read.
    """

    left = 0

    def _dies(self) -> bool:
        self.left -= 1
        if self.left < -1:
            raise Died
        return self.left == -1

    async def get(self, *args: Any, **options: Any) -> Buffer | None:
        if self.left < 0:
            raise Died
        return await super().get(*args, **options)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        if self._dies():
            raise Died
        await super().set(key, value)

    async def delete(self, key: str) -> None:
        if self._dies():
            raise Died
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        if self._dies():
            for key in [key async for key in self.list_prefix(prefix)][::2]:
                await super().delete(key)
            raise Died
        await super().delete_dir(prefix)


@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [{}, {"axis": 1, "scale_method": "mse"}, {"blocks": (1, 4), "chunks": (8, 12)}],
    ids=["one scale", "columns", "blocks"],
)
def test_a_death_at_any_change_is_mended(server: Server, name: str, url: str, job: dict[str, Any]) -> None:
    job = {"chunks": (16, 12), "workers": 1, **job}
    quantize_to_zarr(VALUES, url, **job)
    whole = server.objects(name)
    for at in range(100):
        server.remove(name)
        store = DyingStore.from_url(url, fsspec_options(url))
        store.left = at
        try:
            quantize_to_zarr(VALUES, store, **job)
        except Died:
            with pytest.raises(StoreError):
                open_int4(url)
            quantize_to_zarr(VALUES, url, **job)
            assert server.objects(name) == whole, f"change {at}"
        else:
            break
    assert 10 < at < 99


RUN = """
import sys
from quantize import quantize_to_zarr

def progress(event):
    if hasattr(event, "phase"):
        print(event.phase, event.done, flush=True)

quantize_to_zarr(sys.argv[1], sys.argv[2], chunks=(8, 12), workers=2, progress=progress)
"""


@pytest.mark.slow
def test_kills_cost_no_byte(server: Server, name: str, url: str, tmp_path: Path) -> None:
    values = field((8 * 60, 12))
    np.save(tmp_path / "x.npy", values)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for point in ("scan 20", "write 10", "write 40"):
        command = [sys.executable, "-c", RUN, str(tmp_path / "x.npy"), url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip() == point:
                    child.send_signal(signal.SIGKILL)
                    break
        assert child.returncode == -signal.SIGKILL
        with pytest.raises(StoreError, match="unfinished"):
            open_int4(url)
    skipped = []

    def progress(event: Any) -> None:
        if hasattr(event, "phase") and event.phase == "write":
            skipped.append(event.skipped)

    quantize_to_zarr(tmp_path / "x.npy", url, chunks=(8, 12), workers=2, progress=progress)
    assert skipped[0] >= 40
    quantize_to_zarr(values, tmp_path / "z", chunks=(8, 12))
    assert server.objects(name) == files(tmp_path / "z")


def test_the_same_job_twice_at_once_is_harmless(server: Server, name: str, url: str, tmp_path: Path) -> None:
    quantize_to_zarr(VALUES, tmp_path / "z", **JOB)
    with ThreadPoolExecutor(2) as pool:
        for array in pool.map(lambda _: quantize_to_zarr(VALUES, url, **JOB), range(2)):
            np.testing.assert_array_equal(array[...], open_int4(tmp_path / "z")[...])
    assert server.objects(name) == files(tmp_path / "z")


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_read_while_another_process_overwrites_is_right_or_raises(
    server: Server, url: str, tmp_path: Path, job: dict[str, Any]
) -> None:
    """Of many values: that what was opened comes back within one read is what this store does not tell."""
    values = [field((32, 12), seed=seed) * 2.0**seed for seed in range(20)]
    read_while_overwritten(values, url, tmp_path, 20, rests=10, **{**JOB, **job})


# Writes by conditions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["s3fs", "obstore"])
def test_a_key_is_created_once_and_replaced_by_its_tag(server: Server, name: str, kind: str) -> None:
    keys = Keys.of(store_of(kind, server, name)).inside("group")
    assert keys.conditional
    assert keys.tagged("a") is None
    assert keys.tag("a") is None
    assert [keys.create("a", data) for data in (b"1", b"1", b"2")] == [True, True, False]
    data, tag = keys.tagged("a") or (b"", None)
    assert (data, tag) == (b"1", keys.tag("a"))
    new = keys.replace("a", b"2", tag)
    assert new == keys.tag("a") != tag
    assert keys.replace("a", b"2", tag) == new  # as if its answer had been lost
    assert keys.replace("a", b"3", tag) is None
    assert keys.replace("b", b"3", tag) is None
    assert server.objects(f"{name}/group") == {"a": b"2"}
    with pytest.raises(StoreError, match="it is longer than the 0 bytes"):
        keys.tagged("a", most=0)


@pytest.mark.parametrize("kind", ["s3fs", "obstore"])
def test_a_conflict_is_tried_again(server: Server, name: str, kind: str, pauses: list[float]) -> None:
    keys = Keys.of(store_of(kind, server, name))
    server.tell("fail", "ConditionalRequestConflict", 409, 2)
    assert keys.create("a", b"1")
    tag = keys.tag("a")
    server.tell("fail", "ConditionalRequestConflict", 409, 2)
    assert keys.replace("a", b"2", tag) == keys.tag("a")
    assert len(pauses) == 4


@pytest.mark.parametrize("kind", ["s3fs", slow("obstore")])
def test_a_server_that_takes_no_conditions_is_written_to_as_before(
    server: Server,
    name: str,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("quantize.store.conditions.unable", WeakValueDictionary())
    store = store_of(kind, server, name)
    assert not said_of_conditions(store)
    server.tell("conditions", False)
    try:
        quantize_to_zarr(VALUES + 1, store, **JOB)
        quantize_to_zarr(VALUES, store, **JOB, overwrite=True)
    finally:
        server.tell("conditions", True)
    assert caplog.text.count("takes no conditions with its writes") == 1
    assert said_of_conditions(store)
    quantize_to_zarr(VALUES, tmp_path / "z", **JOB)
    assert server.objects(name) == files(tmp_path / "z")


def said_of_conditions(store: Any) -> bool:
    """Whether the plan says that nothing keeps two jobs apart in a store."""
    return any("writes by conditions" in note for note in plan(VALUES, store, **JOB).notes)


def test_the_plan_says_where_nothing_keeps_two_jobs_apart(server: Server, url: str, tmp_path: Path) -> None:
    """A class derived from Zarr's may do more than its library, so that is not asked past it."""
    assert said_of_conditions(DyingStore.from_url(url, fsspec_options(url)))
    assert not any(map(said_of_conditions, (url, tmp_path / "z", MemoryStore(), "memory://z")))


@pytest.mark.parametrize("kind", [slow("s3fs"), slow("obstore")])
def test_a_run_held_up_puts_nothing_into_what_another_has_made(
    server: Server, name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a chunk and at the seal; the latter is the last change of its document."""
    quantize_to_zarr(VALUES, tmp_path / "z", **JOB)

    def run(store: Any) -> None:
        quantize_to_zarr(VALUES * 3, store, **JOB)

    with monkeypatch.context() as patching:
        all_of_it = HeldUp(patching, store_of(kind, server, f"all-{name}"), 1 << 20, run)
        all_of_it.run.result()
    changes = all_of_it.changes
    for key in ("data/c/1/0", "data/zarr.json"):
        at = len(changes) - 1 - changes[::-1].index(("_put_if", key))
        with monkeypatch.context() as patching:
            held = HeldUp(patching, store_of(kind, server, name), at, run)
            quantize_to_zarr(VALUES, store_of(kind, server, name), **JOB, overwrite=True)
            held.end()
        assert server.objects(name) == files(tmp_path / "z")
        server.remove(name)


# What is asked of it ------------------------------------------------------------------------------------------------


def asked(server: Server, url: str, **job: Any) -> Counter[str]:
    """The requests that a run makes."""
    server.seen()
    quantize_to_zarr(VALUES, url, workers=1, **job)
    return server.seen()


def test_chunks_are_read_and_written_but_not_listed(server: Server, url: str) -> None:
    few, many = (asked(server, f"{url}/{length}", chunks=(length, 12)) for length in (16, 4))
    # Of each of the 6 chunks more, which are a batch each: pass 1 writes a row, which is created and not looked at; the
    # scale and pass 2 read it. Before each write and after a batch the variable is seen to be this job's still.
    assert many == few + Counter(GET=6 * (2 + 4), PUT=6 * 2)


@pytest.mark.slow
def test_going_on_and_overwriting_list_nothing_for_each_chunk(server: Server, url: str) -> None:
    def stages(length: int) -> list[Counter[str]]:
        """The requests of a run, of the same again, of another in its place, and of looking at what it made."""
        job = {"chunks": (length, 12), "value_range": (-100, 100)}
        runs = [asked(server, f"{url}/{length}", **job, **more) for more in ({}, {}, {"axis": 0, "overwrite": True})]
        assert open_int4(f"{url}/{length}", "data").nbytes_stored > 0
        return [*runs, server.seen()]

    few, many = stages(16), stages(4)
    run, overwrite = Counter(GET=6 * 2, PUT=6), Counter(GET=6 * 2, PUT=6 * 3)  # each with a scale and a zero point
    assert many == [few[0] + run, few[1], few[2] + overwrite, few[3]]
    assert few[3] == {"GET": 1, "LIST": 3}


@pytest.mark.parametrize("kind", ["url", slow("obstore")])
def test_appending_and_readers_meanwhile_list_nothing(
    server: Server, name: str, url: str, tmp_path: Path, kind: str
) -> None:
    store, options = url if kind == "url" else object_store(server, name), {**JOB, "chunks": (4, 12), "blocks": (2, 4)}
    quantize_to_zarr(VALUES[:18], store, **options)
    array = open_int4(store, "data")
    quantize_to_zarr(VALUES, tmp_path / "z", **options)
    right = open_int4(tmp_path / "z")[...]
    np.testing.assert_array_equal(array[...], right[:18])
    for length in (18, 24, 32):
        server.seen()
        if length > 18:
            append_to_zarr(VALUES[len(array) : length], store, name="data", workers=1)
            assert "LIST" not in server.seen()
        np.testing.assert_array_equal(array.refresh()[...], right[:length])
        np.testing.assert_array_equal(array[length - 5 :], right[length - 5 : length])
        assert set(server.seen()) == {"GET"}
    written, local = server.objects(name), files(tmp_path / "z")
    assert {key for key in written | local if written.get(key) != local.get(key)} == {"data/zarr.json"}


@pytest.mark.parametrize("kind", ["url", slow("obstore")])
def test_of_two_appends_at_s3_one_commits(server: Server, name: str, url: str, kind: str) -> None:
    store = url if kind == "url" else object_store(server, name)
    quantize_to_zarr(VALUES[:16], store, chunks=(4, 12), axis=0, workers=1)

    def another() -> None:
        with pytest.raises(StoreError, match="is under way or was killed"):
            append_to_zarr(VALUES[:4], store)
        discard_append(store)
        append_to_zarr(VALUES[16:24], store, workers=1)

    with pytest.raises(StoreError, match="taken over while something was appended"):
        append_to_zarr(Meanwhile(VALUES[20:], 3, another), store, workers=1)
    np.testing.assert_array_equal(
        open_int4(store)[...], quantize_to_zarr(VALUES[:24], MemoryStore(), chunks=(4, 12), axis=0)[...]
    )


def test_reading_lists_nothing(server: Server, url: str) -> None:
    quantize_to_zarr(VALUES, url, **JOB)
    server.seen()
    array = open_int4(url, "data")
    assert server.seen() == {"GET": 1}
    array[17:20]
    assert server.seen() == {"GET": 2}  # a chunk, and whether the variable still is what was opened
    open_int4(url)
    assert server.seen() == {"LIST": 1, "GET": 3}  # the group's document too, which tells whether it is a collection


def test_what_others_do_is_seen(server: Server, name: str, url: str) -> None:
    """No listing is kept from before."""
    quantize_to_zarr(VALUES, url, **JOB)
    group = Keys.of(url)
    variable = Variable(group, "data")
    metadata = variable.metadata()
    assert metadata is not None
    assert variables(group) == ["data"]
    assert variable.present(metadata.layout).all()
    server.client.put_object(Bucket=BUCKET, Key=f"{name}/other/zarr.json", Body=server.object(f"{name}/data/zarr.json"))
    server.client.delete_object(Bucket=BUCKET, Key=f"{name}/data/c/1/0")
    assert variables(group) == ["data", "other"]
    assert variable.present(metadata.layout).tolist() == [True, False]
    server.remove(name)
    check(quantize_to_zarr(VALUES, url, **JOB), VALUES)
    assert set(server.objects(name)) == {"zarr.json", "data/zarr.json", "data/c/0/0", "data/c/1/0"}


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", "*?[")
def test_a_path_that_would_be_taken_for_a_pattern_is_refused(server: Server, character: str) -> None:
    with pytest.raises(ValueError, match="fsspec takes for a pattern"):
        quantize_to_zarr(VALUES, f"s3://{BUCKET}/x{character}1]/z.zarr")


def test_a_bucket_that_is_not_there(server: Server, source: Path) -> None:
    done = quantize("run", source, "s3://nowhere/z.zarr")
    assert done.exit_code == 2
    assert "error: s3://nowhere/z.zarr cannot be made: The specified bucket does not exist\n" in done.stderr
    done = quantize("info", "s3://nowhere/z.zarr")
    assert (done.exit_code, done.stderr) == (2, "error: s3://nowhere/z.zarr holds no int4 variable\n")


def test_a_server_that_goes_down(server: Server, name: str, url: str, source: Path, pauses: list[float]) -> None:
    """What is refused is tried again, then the run stops with one message and goes on once the server is there."""
    zarr.create_array(f"{url}-source", data=VALUES, chunks=(8, 12))
    run = ("run", source, url, "--chunks", "8,12", "--workers", 1)
    server.tell("stop after", 2)
    try:
        done = quantize(*run)
        tried = len(pauses)
        others = [quantize("info", url), quantize("run", f"{url}-source", f"{url}-other")]
    finally:
        server.tell("start")
    assert done.exit_code == 3
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: Could not connect to the endpoint URL")
    assert "chunks). To go on, run\n  quantize run" in message
    assert tried == 5
    for other in others:
        assert other.exit_code == 74
        assert "error: Could not connect to the endpoint URL" in other.stderr
    assert {"data/c/0/0", "data/c/1/0"} <= set(server.objects(name))
    assert quantize(*run).exit_code == 0
    check(open_int4(url), VALUES)


def test_a_server_of_the_source_that_goes_down(server: Server, url: str, tmp_path: Path, pauses: list[float]) -> None:
    zarr.create_array(url, data=VALUES, chunks=JOB["chunks"])

    def stop_before_pass_1(event: Any) -> None:
        if hasattr(event, "phase"):
            server.tell("stop")

    with pytest.raises(ConnectionError, match="Could not connect"):
        quantize_to_zarr(url, tmp_path / "z", **JOB, progress=stop_before_pass_1)
    server.tell("start")
    assert len(pauses) == 5
    check(quantize_to_zarr(url, tmp_path / "z", **JOB), VALUES)


@pytest.mark.parametrize("error", [("InternalError", 500), ("ServiceUnavailable", 503)])
def test_errors_of_the_server_that_pass_are_tried_again(
    server: Server, url: str, pauses: list[float], error: tuple[str, int]
) -> None:
    quantize_to_zarr(VALUES, url, **JOB)
    server.tell("fail", *error, 3)
    array = open_int4(url, "data")
    assert len(pauses) == 3
    server.tell("fail", *error, 1)
    np.testing.assert_array_equal(array[...], open_int4(url)[...])
    assert len(pauses) == 4


def test_access_that_is_denied_is_not_tried_again(server: Server, url: str, source: Path, pauses: list[float]) -> None:
    server.tell("fail", "AccessDenied", 403, 1)
    done = quantize("run", source, url)
    assert (done.exit_code, pauses) == (2, [])
    assert done.stderr.endswith("error: made up\n")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), ConnectionError),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), ConnectionError),
        (botocore.exceptions.NoCredentialsError(), OSError),
        (obstore.exceptions.GenericError("x"), OSError),
        (KeyError("x"), KeyError),
        (FileNotFoundError("x"), FileNotFoundError),
    ],
)
def test_errors_of_other_libraries_come_out_as_pythons(error: Exception, expected: type[Exception]) -> None:
    @translated
    def fail() -> None:
        raise error

    with pytest.raises(expected) as caught:
        fail()
    assert type(caught.value) is expected
    assert str(caught.value) == str(error)


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for arguments in (("info", "s3://a/z.zarr"), ("run", "s3://a/x.zarr", "z.zarr")):
        done = quantize(*arguments)
        assert (done.exit_code, done.stderr) == (
            2,
            'error: this needs s3fs, which is not installed: pip install "quantize[s3]"\n',
        )
