// Command objects prints what virt-operator would make of a cluster, for a cluster without virt-operator:
//
//	objects IMAGE VERSION
//
// IMAGE holds all of KubeVirt's programs. It prints a JSON object of two lists, to be applied in this order:
// "definitions" (CRDs, namespace, priority class, the KubeVirt object) and "parts". The KubeVirt object's status says
// that it is deployed, as no operator will.
//
// All is made by KubeVirt's own code; what differs from it is in [adapt] and in the webhooks of virt-operator, which are
// left out.
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	virtv1 "kubevirt.io/api/core/v1"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/install"
	"kubevirt.io/kubevirt/pkg/virt-operator/util"
)

const namespace = "kubevirt"

// Clusters of tests live for minutes.
var validity = &metav1.Duration{Duration: 24 * time.Hour}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: objects IMAGE VERSION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "objects:", err)
		os.Exit(1)
	}
}

func run(image, version string) error {
	kubevirt, err := configuration(image, version)
	if err != nil {
		return err
	}
	strategy, err := install.GenerateCurrentInstallStrategy(util.GetTargetConfigFromKV(kubevirt), "", namespace)
	if err != nil {
		return err
	}
	definitions, err := definitions(strategy, kubevirt)
	if err != nil {
		return err
	}
	authority, certificates, err := certificates(strategy)
	if err != nil {
		return err
	}
	parts := append(accounts(strategy), certificates...)
	parts = append(parts, programs(strategy)...)
	// Last: what fails while its programs do not answer.
	parts = append(parts, admission(strategy, authority)...)
	return json.NewEncoder(os.Stdout).Encode(map[string][]any{"definitions": definitions, "parts": parts})
}

// configuration returns the KubeVirt object that the rest follows from.
func configuration(image, version string) (*virtv1.KubeVirt, error) {
	// KubeVirt takes its images from virt-operator's environment.
	environment := map[string]string{util.KubeVirtVersionEnvName: version}
	for _, name := range []string{
		util.VirtOperatorImageEnvName, util.VirtApiImageEnvName, util.VirtControllerImageEnvName,
		util.VirtHandlerImageEnvName, util.VirtLauncherImageEnvName, util.VirtExportProxyImageEnvName,
		util.VirtExportServerImageEnvName,
	} {
		environment[name] = image
	}
	for name, value := range environment {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	disabled := false
	return &virtv1.KubeVirt{
		TypeMeta:   metav1.TypeMeta{APIVersion: virtv1.GroupVersion.String(), Kind: "KubeVirt"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubevirt", Namespace: namespace},
		Spec: virtv1.KubeVirtSpec{
			ImagePullPolicy: corev1.PullNever,
			Configuration: virtv1.KubeVirtConfiguration{
				ImagePullPolicy:        corev1.PullIfNotPresent,
				DeveloperConfiguration: &virtv1.DeveloperConfiguration{UseEmulation: true},
				VirtTemplateDeployment: &virtv1.VirtTemplateDeployment{Enabled: &disabled},
			},
		},
		Status: virtv1.KubeVirtStatus{
			Phase: virtv1.KubeVirtPhaseDeployed,
			// Without it virt-api refuses VMIs that name no architecture.
			DefaultArchitecture:     "amd64",
			ObservedKubeVirtVersion: version,
		},
	}, nil
}

func definitions(strategy *install.Strategy, kubevirt *virtv1.KubeVirt) ([]any, error) {
	own, err := components.NewKubeVirtCrd()
	if err != nil {
		return nil, err
	}
	all := []any{
		&corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{
				"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged",
			}},
		},
		components.NewKubeVirtPriorityClassCR(),
		own,
	}
	for _, crd := range strategy.CRDs() {
		// They come without a kind, and KubeVirt's own comes once more.
		crd.SetGroupVersionKind(schema.FromAPIVersionAndKind("apiextensions.k8s.io/v1", "CustomResourceDefinition"))
		if crd.Name != own.Name {
			all = append(all, crd)
		}
	}
	return append(all, kubevirt), nil
}

func accounts(strategy *install.Strategy) []any {
	all := list(strategy.ServiceAccounts())
	all = append(all, list(strategy.ClusterRoles())...)
	all = append(all, list(strategy.ClusterRoleBindings())...)
	all = append(all, list(strategy.Roles())...)
	return append(all, list(strategy.RoleBindings())...)
}

// certificates returns the authority that signs all of them, in PEM, and the objects that hold them.
func certificates(strategy *install.Strategy) ([]byte, []any, error) {
	var all []any
	var authority *tls.Certificate
	var bundle []byte
	made := map[string]bool{}
	for _, secret := range components.NewCACertSecrets(namespace) {
		if err := components.PopulateSecretWithCertificate(secret, nil, validity); err != nil {
			return nil, nil, err
		}
		made[secret.Name] = true
		all = append(all, secret)
		if secret.Name == components.KubeVirtCASecretName {
			loaded, err := components.LoadCertificates(secret)
			if err != nil {
				return nil, nil, err
			}
			authority, bundle = loaded, secret.Data[corev1.TLSCertKey]
		}
	}
	for _, bundles := range components.NewCAConfigMaps(namespace) {
		bundles.Data = map[string]string{components.CABundleKey: string(bundle)}
		all = append(all, bundles)
	}
	for _, secret := range strategy.CertificateSecrets() {
		if made[secret.Name] {
			continue
		}
		if err := components.PopulateSecretWithCertificate(secret, authority, validity); err != nil {
			return nil, nil, err
		}
		all = append(all, secret)
	}
	return bundle, all, nil
}

func programs(strategy *install.Strategy) []any {
	all := list(strategy.Services())
	one := int32(1)
	for _, deployment := range append(strategy.ApiDeployments(), strategy.ControllerDeployments()...) {
		deployment.Spec.Replicas = &one
		adapt(&deployment.Spec.Template.Spec)
		all = append(all, deployment)
	}
	for _, daemons := range strategy.DaemonSets() {
		adapt(&daemons.Spec.Template.Spec)
		root := int64(0)
		// The one image's user is that of the other programs.
		daemons.Spec.Template.Spec.Containers[0].SecurityContext.RunAsUser = &root
		all = append(all, daemons)
	}
	return all
}

// adapt lets a program start within seconds on nodes of tests, which are all alike.
func adapt(pod *corev1.PodSpec) {
	pod.Affinity = nil
	for i := range pod.Containers {
		container := &pod.Containers[i]
		if probe := container.ReadinessProbe; probe != nil {
			probe.InitialDelaySeconds, probe.PeriodSeconds = 1, 1
		}
		// It asks for next to nothing, and would get that where the processors are busy.
		container.Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100m")
	}
}

func admission(strategy *install.Strategy, authority []byte) []any {
	var all []any
	for _, service := range strategy.APIServices() {
		service.Spec.CABundle = authority
		all = append(all, service)
	}
	for _, webhooks := range strategy.ValidatingWebhookConfigurations() {
		kept := webhooks.Webhooks[:0]
		for _, webhook := range webhooks.Webhooks {
			if webhook.ClientConfig.Service.Name != components.VirtOperatorServiceName {
				webhook.ClientConfig.CABundle = authority
				kept = append(kept, webhook)
			}
		}
		if webhooks.Webhooks = kept; len(kept) > 0 {
			all = append(all, webhooks)
		}
	}
	for _, webhooks := range strategy.MutatingWebhookConfigurations() {
		// virt-operator makes it only with the feature gate ContainerPathVolumes.
		if webhooks.Name == components.VirtLauncherPodMutatingWebhookName {
			continue
		}
		for i := range webhooks.Webhooks {
			webhooks.Webhooks[i].ClientConfig.CABundle = authority
		}
		all = append(all, webhooks)
	}
	// They come with the version of the core group.
	version := admissionv1.SchemeGroupVersion.String()
	for _, policy := range strategy.ValidatingAdmissionPolicies() {
		policy.APIVersion = version
		all = append(all, policy)
	}
	for _, binding := range strategy.ValidatingAdmissionPolicyBindings() {
		binding.APIVersion = version
		all = append(all, binding)
	}
	return all
}

func list[T any](objects []T) []any {
	all := make([]any, 0, len(objects))
	for _, object := range objects {
		all = append(all, object)
	}
	return all
}
