package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// explain returns a short error that names the Redis.
func (r *Redis) explain(ctx context.Context, err error) error {
	var network *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.ErrClosed), errors.Is(err, errClosed):
		return errClosed
	case ctx.Err() != nil:
		err = fmt.Errorf("%w (%w)", errRedisSlow, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, redis.ErrPoolTimeout):
		err = errRedisSlow
	case redis.HasErrorPrefix(err, "UNMARKED"):
		err = r.unmarked(err)
	case isCode(err, "OOM"):
		err = fmt.Errorf("%w: its maxmemory is used up", ErrFull)
	case isCode(err, "READONLY"):
		err = errors.New("is a replica, which is read-only: name the primary")
	case isCode(err, "LOADING"):
		err = errors.New("is loading its data")
	case isCode(err, "MISCONF"):
		err = errors.New("cannot write to its disk, and refuses writes (MISCONF)")
	case isCode(err, "NOREPLICAS"):
		err = errors.New("has fewer replicas than its min-replicas-to-write")
	case isCode(err, "NOAUTH"):
		err = errors.New("requires a password (NOAUTH); set redis.passwordFile")
	case isCode(err, "WRONGPASS"):
		err = errors.New("rejected the user or the password (WRONGPASS)")
	case errors.As(err, new(redis.Error)):
		// The answer to an unknown command repeats the command, with the password.
		text, _, _ := strings.Cut(err.Error(), ", with args")
		err = errors.New(text)
	case errors.As(err, &network) && !network.Timeout():
		err = fmt.Errorf("%s: %w", network.Op, network.Err)
	case errors.As(err, &timeout) && timeout.Timeout():
		err = errRedisSlow
	case errors.Is(err, io.EOF):
		err = errors.New("closed the connection")
	case strings.Contains(err.Error(), "\n"): // of several Sentinels
		err = errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return fmt.Errorf("%s: %w", r.where, err)
}

// isCode also searches errors of scripts: before version 7, Redis puts a text before
// the error of the command.
func isCode(err error, code string) bool {
	return redis.HasErrorPrefix(err, code) || errors.As(err, new(redis.Error)) && strings.Contains(err.Error(), " -"+code+" ")
}

// unmarked returns the error for a Redis whose mark is missing or is not ours.
func (r *Redis) unmarked(err error) error {
	_, mark, _ := strings.Cut(err.Error(), "UNMARKED ")
	if mark == "" {
		return ErrNotInitialized
	}
	version, ours := strings.CutPrefix(mark, redisMark)
	if n, err := strconv.ParseUint(version, 10, 32); ours && err == nil {
		return fmt.Errorf("its state has version %d, and this binary reads up to version %d", n, redisVersion)
	}
	name, colon := strings.CutSuffix(r.config.Prefix, ":")
	if name = secret.Show(name); colon {
		name += ":"
	}
	return fmt.Errorf("another program has the key %smark; choose another redis.prefix", name)
}
