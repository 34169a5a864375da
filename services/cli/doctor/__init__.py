"""What is wrong between Keycloak, Envoy and the services, and what mends it."""
