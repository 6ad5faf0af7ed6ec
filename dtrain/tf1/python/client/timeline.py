"""A traced run as a timeline, as tensorflow.python.client.timeline gives it.

    options, metadata = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), tf.RunMetadata()
    session.run(train_op, feed_dict=..., options=options, run_metadata=metadata)
    trace = timeline.Timeline(metadata.step_stats).generate_chrome_trace_format()

On several ranks it is this rank's. `dtrain train --profile` records all of them.
"""

from dtrain.runtime.profile import Timeline

__all__ = ["Timeline"]
