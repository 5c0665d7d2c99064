#!/bin/bash
KAFKA_JIT_LEVEL=1 exec /opt/kafka/bin/kafka-run-class.sh org.apache.kafka.tools.AclCommand "$@"
