"""The log on NATS JetStream: the only room that knows nats-py.

Facts this rests on (nats-server 2.15, nats-py 2.16): compare-and-set on one literal subject holds on one and on
three replicas; a batch is all or nothing; a publish that timed out while reconnecting may land later, so nothing is
buffered (`pending_size=-1`) and every append is idempotent by its id; a 503 during leader election is worth a retry;
a long pull does not notice that the server restarted, so it is cancelled when the client has reconnected.
"""

from events.jetstream.delivery import Delivery
from events.jetstream.log import JetStreamLog
from events.jetstream.settings import Broker, unusable
from events.jetstream.shape import ADMISSION, REGISTRAR, LogReplaced, StreamDrift, step_durable

__all__ = [
    "ADMISSION",
    "REGISTRAR",
    "Broker",
    "Delivery",
    "JetStreamLog",
    "LogReplaced",
    "StreamDrift",
    "step_durable",
    "unusable",
]
