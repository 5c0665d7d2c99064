#!/bin/bash
# A class of Kafka with the image's jars. KAFKA_HEAP_OPTS and KAFKA_OPTS as with Kafka's own script of this name.
set -euo pipefail
log=/opt/kafka/config/log4j2.yaml
[ -e "$log" ] || log=/etc/kafka/docker/log4j2.yaml
exec java ${KAFKA_HEAP_OPTS:--Xmx256m} -XX:+UseSerialGC -XX:TieredStopAtLevel=${KAFKA_JIT_LEVEL:-4} -Xshare:auto \
  -Dlog4j2.configurationFile="$log" -Dkafka.logs.dir=/opt/kafka/logs ${KAFKA_OPTS:-} -cp '/opt/kafka/libs/*' "$@"
