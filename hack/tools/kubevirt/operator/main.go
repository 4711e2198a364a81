// Command operator prints virt-operator's installation, and a KubeVirt object for it to install:
//
//	operator OPERATOR-IMAGE IMAGE VERSION
//
// OPERATOR-IMAGE holds virt-operator and virt-exportproxy, IMAGE all other programs of KubeVirt. It prints a JSON list of
// objects.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	virtv1 "kubevirt.io/api/core/v1"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
)

const namespace = "kubevirt"

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: operator OPERATOR-IMAGE IMAGE VERSION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run(operatorImage, image, version string) error {
	definition, err := components.NewKubeVirtCrd()
	if err != nil {
		return err
	}
	all := []any{
		&corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{
				"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged",
			}},
		},
		definition,
		components.NewKubeVirtPriorityClassCR(),
	}
	all = append(all, rbac.GetAllOperator(namespace)...)
	const verbosity, none = "2", ""
	operator := components.NewOperatorDeployment(
		namespace, none, none, none, verbosity, version, none,
		image, image, image, image, operatorImage, image,
		none, none, none, none, none, none,
		operatorImage, corev1.PullNever,
	)
	one := int32(1)
	operator.Spec.Replicas = &one
	all = append(all, operator, kubevirt())
	return json.NewEncoder(os.Stdout).Encode(all)
}

func kubevirt() *virtv1.KubeVirt {
	one, disabled := uint8(1), false
	return &virtv1.KubeVirt{
		TypeMeta:   metav1.TypeMeta{APIVersion: virtv1.GroupVersion.String(), Kind: "KubeVirt"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubevirt", Namespace: namespace},
		Spec: virtv1.KubeVirtSpec{
			ImagePullPolicy:   corev1.PullNever,
			Infra:             &virtv1.ComponentConfig{Replicas: &one},
			UninstallStrategy: virtv1.KubeVirtUninstallStrategyBlockUninstallIfWorkloadsExist,
			Configuration: virtv1.KubeVirtConfiguration{
				ImagePullPolicy:        corev1.PullIfNotPresent,
				DeveloperConfiguration: &virtv1.DeveloperConfiguration{UseEmulation: true},
				// Its programs are not built.
				VirtTemplateDeployment: &virtv1.VirtTemplateDeployment{Enabled: &disabled},
			},
			CustomizeComponents: virtv1.CustomizeComponents{Patches: []virtv1.CustomizeComponentsPatch{{
				ResourceType: "DaemonSet",
				ResourceName: components.VirtHandlerName,
				Type:         virtv1.JSONPatchType,
				// IMAGE's user is that of the other programs.
				Patch: `[{"op": "add", "path": "/spec/template/spec/containers/0/securityContext/runAsUser", "value": 0}]`,
			}}},
		},
	}
}
