"""Turns what etcd says into what Envoy does, and answers reflection and health at the edge."""
