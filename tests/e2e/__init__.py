"""The whole shop as a customer sees it, Keycloak included."""
