# quay.io/keycloak/keycloak: the distribution in /opt/keycloak, a Java, the user 1000; nothing that speaks HTTP.
ARG BASE
FROM ${BASE}
COPY java /usr/lib/jvm/java
COPY --chown=1000:0 keycloak /opt/keycloak
RUN echo "keycloak:x:0:root" >>/etc/group && echo "keycloak:x:1000:0:keycloak user:/opt/keycloak:/usr/sbin/nologin" >>/etc/passwd
ENV JAVA_HOME=/usr/lib/jvm/java KC_RUN_IN_CONTAINER=true LANG=en_US.UTF-8
USER 1000
EXPOSE 8080 8443 9000
ENTRYPOINT ["/opt/keycloak/bin/kc.sh"]
