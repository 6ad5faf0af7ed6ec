"""A traced run as a timeline, as tensorflow.python.client.timeline gives it.

    options, metadata = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), tf.RunMetadata()
    session.run(train_op, feed_dict=..., options=options, run_metadata=metadata)
    trace = timeline.Timeline(metadata.step_stats).generate_chrome_trace_format()

On several ranks it is this rank's. `dtrain train --profile` records all of them.
"""

from __future__ import annotations

from dtrain.errors import UsageError
from dtrain.runtime.profile import Recorder, to_json


class Timeline:
    """The kernels of the runs that step_stats, a RunMetadata's, tells of."""

    def __init__(self, step_stats: Recorder | None) -> None:
        if step_stats is None:
            raise UsageError(
                "Timeline: nothing was traced. Run with "
                "options=RunOptions(trace_level=RunOptions.FULL_TRACE), run_metadata=metadata."
            )
        self._recorder = step_stats

    def generate_chrome_trace_format(self, show_dataflow: bool = True, show_memory: bool = False) -> str:
        """JSON text that chrome://tracing and Perfetto open; the two arguments change nothing."""
        base = min((begin for _, _, _, begin, _, _ in self._recorder.events), default=0)
        return f'{{"traceEvents":[\n{to_json(self._recorder.trace(base))}\n]}}\n'
