// Command etcd is etcd's server as its authors publish it, from the modules that go.mod and go.sum pin.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
