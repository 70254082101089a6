// Charts as Helm renders them: its loader, its values, its engine and its order, without the parts that speak with clusters,
// registries and plugins. What `helm template` prints is what templateChart prints.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	valuesloader "helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"helm.sh/helm/v4/pkg/strvals"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Helm shows it to people and does not install it.
const notesFile = "NOTES.txt"

type words []string

func (w *words) String() string { return strings.Join(*w, " ") }

func (w *words) Set(word string) error {
	*w = append(*w, word)
	return nil
}

type helmOptions struct {
	name        string
	namespace   string
	kubeVersion string
	includeCRDs bool
	notes       bool
	files       words
	set         words
}

func templateChart(arguments []string, out io.Writer) error {
	var options helmOptions
	flags := flag.NewFlagSet(roleHelmTemplate, flag.ContinueOnError)
	flags.StringVar(&options.name, "name", "release-name", "name of the release")
	flags.StringVar(&options.namespace, "namespace", "default", "namespace of the release")
	flags.StringVar(&options.kubeVersion, "kube-version", "", "version of Kubernetes that the chart is told of")
	flags.BoolVar(&options.includeCRDs, "include-crds", false, "print what lies in crds/, too")
	flags.BoolVar(&options.notes, "notes", false, "print the notes instead of the manifests")
	flags.Var(&options.files, "values", "file of values; repeatable, the last one goes first")
	flags.Var(&options.set, "set", "KEY=VALUE, as Helm reads it; repeatable")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("expected one directory of a chart")
	}
	loaded, err := loadChart(flags.Arg(0))
	if err != nil {
		return err
	}
	files, err := renderChart(loaded, options)
	if err != nil {
		return err
	}
	return printChart(loaded, files, options, out)
}

// By the loader that picks one by the chart's apiVersion, and validates what it says of itself.
func loadChart(dir string) (*chart.Chart, error) {
	loaded, err := loader.Load(dir)
	if err != nil {
		return nil, err
	}
	known, ok := loaded.(*chart.Chart)
	if !ok {
		return nil, fmt.Errorf("%s is a chart of a version that is not released yet: %T", dir, loaded)
	}
	if kind := known.Metadata.Type; kind != "" && kind != "application" {
		return nil, fmt.Errorf("%s is a chart of type %s, which cannot be installed", dir, kind)
	}
	return known, nil
}

// All of the chart's templates, by their paths.
func renderChart(loaded *chart.Chart, options helmOptions) (map[string]string, error) {
	if err := chartutil.ValidateReleaseName(options.name); err != nil {
		return nil, err
	}
	values, err := readHelmValues(options)
	if err != nil {
		return nil, err
	}
	if err := chartutil.ProcessDependencies(loaded, values); err != nil {
		return nil, err
	}
	capabilities := common.DefaultCapabilities.Copy()
	if options.kubeVersion != "" {
		version, err := common.ParseKubeVersion(options.kubeVersion)
		if err != nil {
			return nil, err
		}
		capabilities.KubeVersion = *version
	}
	release := common.ReleaseOptions{Name: options.name, Namespace: options.namespace, Revision: 1, IsInstall: true}
	// Validates them by the chart's schema.
	toRender, err := util.ToRenderValues(loaded, values, release, capabilities)
	if err != nil {
		return nil, err
	}
	wanted := loaded.Metadata.KubeVersion
	if wanted != "" && !chartutil.IsCompatibleRange(wanted, capabilities.KubeVersion.String()) {
		return nil, fmt.Errorf("the chart is for Kubernetes %s, and this is %s", wanted, capabilities.KubeVersion.Version)
	}
	return engine.Render(loaded, toRender)
}

func readHelmValues(options helmOptions) (map[string]any, error) {
	values := map[string]any{}
	for _, file := range options.files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		read, err := valuesloader.LoadValues(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		values = valuesloader.MergeMaps(values, read)
	}
	for _, assignment := range options.set {
		if err := strvals.ParseInto(assignment, values); err != nil {
			return nil, fmt.Errorf("--set %s: %w", assignment, err)
		}
	}
	return values, nil
}

func printChart(loaded *chart.Chart, files map[string]string, options helmOptions, out io.Writer) error {
	notes := ""
	for name, text := range files {
		if path.Base(name) != notesFile {
			continue
		}
		if name == path.Join(loaded.Name(), "templates", notesFile) {
			notes = text
		}
		delete(files, name)
	}
	if options.notes {
		_, err := io.WriteString(out, notes)
		return err
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	document := func(source, content string) { fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", source, content) }
	if options.includeCRDs {
		for _, crd := range loaded.CRDObjects() {
			document(crd.Filename, string(crd.File.Data))
		}
	}
	for _, manifest := range manifests {
		document(manifest.Name, manifest.Content)
	}
	for _, hook := range hooks {
		document(hook.Path, hook.Manifest)
	}
	_, err = out.Write(text.Bytes())
	return err
}

// Reads documents of YAML as kubectl and Helm do before they send them, and prints each as a line of JSON.
func readManifests(in io.Reader, out io.Writer) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(in))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return err
		}
		if string(object) == "null" {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s\n", object); err != nil {
			return err
		}
	}
}
