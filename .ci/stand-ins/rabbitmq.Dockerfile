# RabbitMQ of Debian, which behaves as the official image where the tests and deploy/ depend on it.
ARG BASE
FROM ${BASE}
# Official: user 999, guest from anywhere, management and metrics, logs on the standard output.
RUN usermod -u 999 rabbitmq && groupmod -g 999 rabbitmq \
 && mkdir -p /etc/rabbitmq/conf.d /var/lib/rabbitmq /var/log/rabbitmq \
 && echo '[rabbitmq_management,rabbitmq_prometheus].' > /etc/rabbitmq/enabled_plugins \
 && echo 'loopback_users.guest = false' > /etc/rabbitmq/conf.d/10-defaults.conf \
 && chown -R rabbitmq:rabbitmq /etc/rabbitmq /var/lib/rabbitmq /var/log/rabbitmq \
 && ln -sf /var/lib/rabbitmq/.erlang.cookie /root/.erlang.cookie \
 && ln -s /usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins /plugins
COPY entrypoint /usr/local/bin/docker-entrypoint.sh
# Not Debian's wrapper in /usr/sbin: as the first process it would swallow SIGTERM.
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/var/lib/rabbitmq LANG=C.UTF-8 RABBITMQ_LOGS=- RABBITMQ_PLUGINS_DIR=/plugins \
    STAND_IN_USER=rabbitmq STAND_IN_DATA=/var/lib/rabbitmq
VOLUME /var/lib/rabbitmq
EXPOSE 4369 5671 5672 15672 15692 25672
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["rabbitmq-server"]
