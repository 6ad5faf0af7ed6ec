"""tf.Summary and tf.Event: TensorBoard's own messages, which FileWriter takes."""

from dtrain.ops.summary_proto import protos

__all__ = ["Event", "SessionLog", "Summary", "SummaryDescription"]

Summary, SummaryDescription = protos().summary_pb2.Summary, protos().summary_pb2.SummaryDescription
Event, SessionLog = protos().event_pb2.Event, protos().event_pb2.SessionLog
