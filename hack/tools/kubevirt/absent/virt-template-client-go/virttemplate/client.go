// Package virttemplate declares a client of VM templates that cannot be made; see ../../README.md.
package virttemplate

import (
	"errors"

	"k8s.io/client-go/rest"
)

// Client would reach the API of VM templates.
type Client struct{}

// Group would reach one version of it.
type Group struct{}

// NewForConfig fails, so that none of the methods is ever called.
func NewForConfig(*rest.Config) (*Client, error) {
	return nil, errors.New("built without virt-template")
}

func (*Client) TemplateV1beta1() Group { return Group{} }

func (Group) RESTClient() rest.Interface { return nil }
