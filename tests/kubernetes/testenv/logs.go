// What a container said, as `kubectl logs` asks for it: its log file, over all its restarts.

package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// How often somebody who follows hears what is new.
const logPoll = 100 * time.Millisecond

// logWish is what of a log is wanted.
type logWish struct {
	follow bool
	// Lines from the end, and bytes in all; negative is all there are.
	tail, limit int64
}

func readLogWish(request *http.Request) (logWish, error) {
	wish := logWish{follow: request.FormValue("follow") == "true", tail: -1, limit: -1}
	for _, name := range []string{"previous", "timestamps"} {
		if request.FormValue(name) == "true" {
			return wish, errors.New(name + ": a log here has neither times nor borders between restarts")
		}
	}
	for _, name := range []string{"sinceSeconds", "sinceTime"} {
		if request.FormValue(name) != "" {
			return wish, errors.New(name + ": a log here has no times")
		}
	}
	for name, target := range map[string]*int64{"tailLines": &wish.tail, "limitBytes": &wish.limit} {
		text := request.FormValue(name)
		if text == "" {
			continue
		}
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil || number < 0 {
			return wish, errors.New(name + " is no number of them")
		}
		*target = number
	}
	return wish, nil
}

func serveLogs(pod *runningPod, answer http.ResponseWriter, request *http.Request) {
	wish, err := readLogWish(request)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	name := request.PathValue("container")
	file, err := os.Open(pod.sandbox.log(name))
	if err != nil {
		http.Error(answer, "container "+name+" has said nothing: it was not started", http.StatusBadRequest)
		return
	}
	defer file.Close()
	// Tests are short: a log is read whole.
	all, err := io.ReadAll(file)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	answer.Header().Set("Content-Type", "text/plain")
	var to io.Writer = answer
	if wish.limit >= 0 {
		to = &limitedWriter{to: answer, left: wish.limit}
	}
	if _, err := to.Write(lastLines(all, wish.tail)); err != nil || !wish.follow {
		return
	}
	for {
		_ = http.NewResponseController(answer).Flush()
		ended := pod.isThrough(name) || !wait(request.Context(), logPoll)
		// What it said last is read after it is known to have ended. The file goes on where it was read to.
		if _, err := io.Copy(to, file); err != nil || ended {
			return
		}
	}
}

// isThrough is whether a container will say nothing any more.
func (p *runningPod) isThrough(name string) bool {
	select {
	case <-p.gone:
		return true
	default:
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.of(name).done
}

// lastLines is so many of a text, or all of them.
func lastLines(text []byte, wanted int64) []byte {
	if wanted < 0 {
		return text
	}
	if wanted == 0 {
		return nil
	}
	start := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; start > 0 && wanted > 0; wanted-- {
		start = bytes.LastIndexByte(text[:start], '\n')
	}
	if start < 0 || wanted > 0 {
		return text
	}
	return text[start+1:]
}

// limitedWriter passes so many bytes on and refuses what comes after.
type limitedWriter struct {
	to   io.Writer
	left int64
}

func (l *limitedWriter) Write(text []byte) (int, error) {
	some := text[:min(int64(len(text)), l.left)]
	written, err := l.to.Write(some)
	l.left -= int64(written)
	if err == nil && written < len(text) {
		err = io.ErrShortWrite
	}
	return written, err
}
