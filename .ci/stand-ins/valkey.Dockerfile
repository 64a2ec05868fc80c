# Valkey of Debian under Redis's name as well, which behaves as the official images where the tests and deploy/ depend
# on it.
ARG BASE
FROM ${BASE}
# Official: user and group 999, data in /data, no protected mode.
RUN usermod -u 999 -l redis valkey && groupmod -g 999 -n redis valkey \
 && mkdir -p /data && chown redis:redis /data \
 && for name in server cli sentinel benchmark check-aof check-rdb; do \
      test ! -e /usr/bin/valkey-$name || ln -sf valkey-$name /usr/bin/redis-$name; done
COPY entrypoint /usr/local/bin/docker-entrypoint.sh
ENV STAND_IN_USER=redis STAND_IN_DATA=/data
VOLUME /data
WORKDIR /data
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["valkey-server"]
