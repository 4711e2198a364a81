// Command coredns is CoreDNS with the plugins that answer the names of a cluster, and without those for clouds.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// The order of plugins in a server.
	dnsserver.Directives = []string{"ready", "errors", "kubernetes"}
	coremain.Run()
}
