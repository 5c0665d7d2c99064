#!/bin/bash
# Settings from KAFKA_… variables by Kafka's own class for images, storage formatted once, then the broker.
set -euo pipefail
export CLUSTER_ID=${CLUSTER_ID:-4L6g3nShT-eMCtK--X86sw}
if ! said=$(KAFKA_JIT_LEVEL=1 /opt/kafka/bin/kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup \
  --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1); then
  if ! grep -qi "already formatted" <<<"$said"; then
    echo "$said" >&2
    exit 1
  fi
fi
exec /opt/kafka/bin/kafka-run-class.sh kafka.Kafka /opt/kafka/config/server.properties
