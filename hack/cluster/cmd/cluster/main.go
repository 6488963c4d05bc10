// Command cluster is the local cluster's control plane and node agents in one binary: Kubernetes' components and
// etcd share nearly all of their code, so that one link and 130 MB replace six links and 500 MB.
//
// The first argument, or the name that the binary is called by, picks the part; every other argument is that
// part's own flag, exactly as upstream documents it:
//
//	cluster kube-apiserver --etcd-servers=https://127.0.0.1:26379 ...
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// parts maps each part's name to the function that runs it and returns its exit code.
var parts = map[string]func() int{
	"etcd":                    runEtcd,
	"kube-apiserver":          run(apiserver.NewAPIServerCommand),
	"kube-controller-manager": run(manager.NewControllerManagerCommand),
	"kube-scheduler":          run(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              run(proxy.NewProxyCommand),
	"kubelet":                 run(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

func main() {
	name := filepath.Base(os.Args[0])
	if _, called := parts[name]; !called && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = append([]string{name}, os.Args[2:]...)
	}
	part, known := parts[name]
	if !known {
		fmt.Fprintf(os.Stderr, "cluster: no part is named %q; there are %s\n", name, strings.Join(names(), ", "))
		os.Exit(2)
	}
	os.Exit(part())
}

// run defers the command's making until it is picked: a component registers its metrics and flags while it is made.
func run(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

// runEtcd returns when etcd was told to stop; on an error etcdmain ends the process itself.
func runEtcd() int {
	etcdmain.Main(os.Args)
	return 0
}

func names() []string {
	all := make([]string, 0, len(parts))
	for name := range parts {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}
