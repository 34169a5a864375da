"""etcd, control plane and Envoy, with services that only answer."""
