// Keys and certificates of one cluster, made anew each time: an authority, the API server's certificate, an
// administrator's, and the key that signs tokens of service accounts. And the kubeconfig files that hold them.

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

const (
	// Life of every certificate; no test lasts as long.
	lifetime = 7 * 24 * time.Hour
	// For clocks that were set back meanwhile.
	backdated = time.Hour
)

// pair in PEM.
type pair struct {
	certificate, key []byte
}

type keys struct {
	authority, admin pair
}

// makeKeys writes what the servers read, and keeps what clients need.
func (c *cluster) makeKeys() (*keys, error) {
	authority := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "ca of " + c.name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	authorityKey, authorityPair, err := issue(authority, nil, nil)
	if err != nil {
		return nil, err
	}
	serving := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP(c.address), firstOf(c.serviceCIDR, 1)},
		DNSNames: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		},
	}
	_, servingPair, err := issue(serving, authority, authorityKey)
	if err != nil {
		return nil, err
	}
	admin := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	_, adminPair, err := issue(admin, authority, authorityKey)
	if err != nil {
		return nil, err
	}
	tokens, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tokensPEM, err := keyPEM(tokens)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(tokens.Public())
	if err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{
		"ca.crt":              authorityPair.certificate,
		"serving.crt":         servingPair.certificate,
		"serving.key":         servingPair.key,
		"admin.crt":           adminPair.certificate,
		"admin.key":           adminPair.key,
		"serviceaccounts.key": tokensPEM,
		"serviceaccounts.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(c.file(name), text, 0o600); err != nil {
			return nil, err
		}
	}
	return &keys{authority: authorityPair, admin: adminPair}, nil
}

// issue signs a certificate for a new key, by itself unless an issuer is given.
func issue(wanted, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, pair{}, err
	}
	if wanted.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, pair{}, err
	}
	wanted.NotBefore, wanted.NotAfter = time.Now().Add(-backdated), time.Now().Add(lifetime)
	if issuer == nil {
		issuer, issuerKey = wanted, key
	}
	der, err := x509.CreateCertificate(rand.Reader, wanted, issuer, key.Public(), issuerKey)
	if err != nil {
		return nil, pair{}, err
	}
	text, err := keyPEM(key)
	return key, pair{certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: text}, err
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// firstOf is the address so many after a range's own.
func firstOf(cidr string, offset int64) net.IP {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return nil
	}
	ip := network.IP
	sum := new(big.Int).Add(new(big.Int).SetBytes(ip), big.NewInt(offset))
	return sum.FillBytes(make([]byte, len(ip)))
}

// writeKubeconfig writes a context for each cluster, called as it is; the first is the current one.
func writeKubeconfig(path string, clusters ...*cluster) error {
	config := api.NewConfig()
	for _, c := range clusters {
		config.Clusters[c.name] = &api.Cluster{Server: c.server(), CertificateAuthorityData: c.keys.authority.certificate}
		config.AuthInfos[c.name] = &api.AuthInfo{
			ClientCertificateData: c.keys.admin.certificate, ClientKeyData: c.keys.admin.key,
		}
		config.Contexts[c.name] = &api.Context{Cluster: c.name, AuthInfo: c.name}
	}
	config.CurrentContext = clusters[0].name
	return clientcmd.WriteToFile(*config, path)
}
