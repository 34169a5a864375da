"""The tests, by how real they are: unit, component, mesh, e2e, chaos; support holds what they share."""
