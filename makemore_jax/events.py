"""The TensorBoard file of a run: curves, histograms, samples, hyperparameters."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import summary_v2
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.summary.writer.record_writer import RecordWriter

LOSSES = r"^(train|dev|test)_loss$"  # tags in the chart of all losses


class Events:
    """Writes the event file of a working directory.

    If a run resumes at step `start`, TensorBoard drops the values of later steps.
    """

    def __init__(self, workdir: Path, start: int):
        is_first = not any(workdir.glob("events.out.*"))
        # TensorBoard's own writer has a thread, which prints a traceback if the disk is full.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((workdir / name).open("ab"))
        self._write_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if not is_first:
            restart = SessionLog(status=SessionLog.START)
            event = Event(wall_time=time.time(), step=start + 1, session_log=restart)
            self._write_event(event)

    def write_values(self, step: int, values: dict[str, Any]) -> None:
        """Write numbers by tag, or the numbers and histograms of `diagnostics` by kind and name.

        Values that are not finite are left out.
        """
        by_tag = {}
        for tag, value in values.items():
            if isinstance(value, dict):
                by_tag |= {f"{tag}/{name}": v for name, v in value.items() if _is_finite(v)}
            else:
                by_tag[tag] = value
        self._write(step, Summary(value=[_as_value(tag, v) for tag, v in by_tag.items()]))

    def write_samples(self, step: int, lines: list[str]) -> None:
        """Write lines of text, shown verbatim."""
        # Markdown shows text as code, with its line breaks, if it is indented by four spaces.
        text = "\n".join(f"    {line}" for line in lines)
        metadata = text_plugin.create_summary_metadata("samples", "")
        self._write(step, _tensor_summary("samples", _encode(text), metadata))

    def write_config(self, fields: dict[str, Any]) -> None:
        """Write the fields of a config as hyperparameters, and a chart with all losses."""
        plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in fields.items()}
        self._write(0, summary_v2.hparams_pb(plain))
        content = layout_pb2.MultilineChartContent(tag=[LOSSES])
        chart = layout_pb2.Chart(title="train, dev and test loss", multiline=content)
        layout = layout_pb2.Layout(category=[layout_pb2.Category(title="loss", chart=[chart])])
        metadata = custom_scalar.create_summary_metadata()
        tag = custom_scalar.CONFIG_SUMMARY_TAG
        self._write(0, _tensor_summary(tag, layout.SerializeToString(), metadata))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int, summary: Summary) -> None:
        self._write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _write_event(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def append_final_values(workdir: Path, step: int, values: dict[str, float]) -> None:
    """Append numbers to the event file of a run after the training closed it."""
    files = sorted(workdir.glob("events.out.*"), key=lambda file: file.stat().st_mtime)
    if not files:  # deleted during the run
        return
    summary = Summary(value=[_as_value(tag, v) for tag, v in values.items()])
    event = Event(wall_time=time.time(), step=step, summary=summary)
    with files[-1].open("ab") as out:
        RecordWriter(out).write(event.SerializeToString())


def _is_finite(value: Any) -> bool:
    """Return whether TensorBoard can show a number or a histogram."""
    return value is not None and (not isinstance(value, dict) or None not in value.values())


def _as_value(tag: str, v: Any) -> Summary.Value:
    if not isinstance(v, dict):
        return Summary.Value(tag=tag, simple_value=v)
    low, high, num = v["low"], v["high"], sum(v["counts"])
    ends = np.linspace(low, high, len(v["counts"]) + 1)[1:].tolist()
    squares = num * (v["std"] ** 2 + v["mean"] ** 2)
    sums = {"num": num, "sum": num * v["mean"], "sum_squares": squares}
    bins = {"bucket_limit": ends, "bucket": v["counts"]}
    return Summary.Value(tag=tag, histo=HistogramProto(min=low, max=high, **sums, **bins))


def _tensor_summary(tag: str, content: bytes, metadata: SummaryMetadata) -> Summary:
    tensor = TensorProto(dtype=DT_STRING, string_val=[content])
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # UTF-8 can't encode lone surrogates
