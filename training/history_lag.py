"""How many messages of the stream the history lacks, as far as Kafka tells."""

from dataclasses import dataclass
from pathlib import Path

from ingestion.broker import Consumer, answers
from ingestion.historian import TOPICS, Progress


@dataclass(frozen=True)
class HistoryLag:
    """Asks Kafka where its topics end, and the history how far it has come.

    Args:
        kafka: address.
        history: folder.
    """

    kafka: str
    history: Path

    def __call__(self) -> int | None:
        """Messages that the history lacks; None if Kafka does not answer or has no such topics yet."""
        if not answers(self.kafka):
            return None
        try:
            return self._missing()
        except RuntimeError:  # Kafka's own errors are such, as is `BrokerError`
            return None

    def _missing(self) -> int:
        consumer = Consumer(self.kafka, TOPICS, group=None)
        try:
            return Progress(self.history).missing(consumer.ends(consumer.assignment()))
        finally:
            consumer.close()
