"""The mesh as it is: who runs where, and how Envoy carries the calls to them."""
