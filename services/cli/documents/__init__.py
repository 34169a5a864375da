"""Configuration and policy as operators see and change them: in etcd, with a history, until they are in effect."""
