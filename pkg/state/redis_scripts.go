package state

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// script makes a script that checks the mark first. Redis runs a script atomically, so a
// flush, which removes the counts and the mark, is noticed by the next script.
func script(text string) *redis.Script {
	return redis.NewScript(`
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then
	return redis.error_reply('UNMARKED ' .. string.sub(mark or '', 1, 100))
end
` + text)
}

// An entry is a string: its expiry in milliseconds (0 for never), a space, and its count
// or value. now is the time of this server. Redis removes an entry ARGV[3] milliseconds
// after it has expired. An entry that is longer than maxValue and an expiry is an error:
// another program may have written it.
const scriptEntry = `
local now = tonumber(ARGV[2])
local function read(key)
	local raw = redis.call('GET', key)
	if not raw then return false end
	if #raw > 2097216 then error('an entry that is too long') end
	local space = string.find(raw, ' ', 1, true)
	local expires = space and tonumber(string.sub(raw, 1, space - 1))
	if not expires then error('an entry of another program') end
	if expires ~= 0 and expires <= now then return false end
	return string.sub(raw, space + 1), expires
end
local function write(key, data, expires)
	local raw = string.format('%.0f ', expires) .. data
	if expires == 0 then
		redis.call('SET', key, raw)
	else
		redis.call('SET', key, raw, 'PX', string.format('%.0f', expires - now + tonumber(ARGV[3])))
	end
end
`

// The data of a count are the highest number in use and the lower numbers that were
// given back, in order and separated by spaces; see count.
const scriptCount = `
local function count(data)
	local n, back = 0, {}
	for word in string.gmatch(data or '0', '%S+') do
		local number = tonumber(word)
		if not number then error('an entry of another program') end
		back[#back + 1] = number
	end
	n = table.remove(back, 1)
	if not n then error('an entry of another program') end
	return n, back
end
local function text(n, back)
	local words = {string.format('%.0f', n)}
	for _, b in ipairs(back) do words[#words + 1] = string.format('%.0f', b) end
	return table.concat(words, ' ')
end
`

var (
	scriptGet = script(scriptEntry + `
return {(read(KEYS[2]))}
`)
	scriptIncrement = script(scriptEntry + scriptCount + `
local data, expires = read(KEYS[2])
local n, back = count(data)
expires = math.max(expires or 0, tonumber(ARGV[4]))
local got = table.remove(back, 1)
if not got then
	n = n + 1
	got = n
end
write(KEYS[2], text(n, back), expires)
return got
`)
	// 4: the number, 5: maxGivenBack.
	scriptGiveBack = script(scriptEntry + scriptCount + `
local data, expires = read(KEYS[2])
local n, back = count(data)
local got = tonumber(ARGV[4])
if got < 1 or got > n then return 0 end
for _, b in ipairs(back) do
	if b == got then return 0 end
end
if got < n then
	if #back >= tonumber(ARGV[5]) then return 0 end
	back[#back + 1] = got
	table.sort(back)
else
	n = n - 1
	while back[#back] == n and n > 0 do
		table.remove(back)
		n = n - 1
	end
end
if n == 0 then
	redis.call('DEL', KEYS[2])
else
	write(KEYS[2], text(n, back), expires)
end
return 1
`)
	// 4: expiry, 5: 1 for a value and 0 for none, 6: the value; for an Update, 7 and 8
	// are the required old value, as 5 and 6.
	scriptPut = script(scriptEntry + `
if ARGV[7] then
	local old = read(KEYS[2])
	if (old and '1' or '0') ~= ARGV[7] or (old or '') ~= ARGV[8] then return 0 end
end
if ARGV[5] == '0' then
	redis.call('DEL', KEYS[2])
else
	write(KEYS[2], ARGV[6], tonumber(ARGV[4]))
end
return 1
`)
	scriptForget = script(`
return redis.call('DEL', KEYS[2], KEYS[3])
`)
	// 2: cursor, 3: pattern. Keys that are not strings belong to other programs.
	scriptScan = script(`
local page = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', 1000)
local found, size = {page[1]}, 0
for _, key in ipairs(page[2]) do
	local raw = redis.pcall('GET', key)
	if type(raw) == 'string' then
		size = size + #key + #raw
		if size > 4194304 then return redis.error_reply('ERR entries that are too long') end
		found[#found + 1] = key
		found[#found + 1] = raw
	end
end
return found
`)
	scriptInit = redis.NewScript(`
local mark = redis.call('GET', KEYS[1])
if not mark then
	mark = ARGV[1]
	redis.call('SET', KEYS[1], mark)
end
if mark ~= ARGV[1] then
	return redis.error_reply('UNMARKED ' .. string.sub(mark, 1, 100))
end
return 1
`)
)

// run calls a script by its hash, or with its text if Redis does not know the hash.
func (r *Redis) run(ctx context.Context, s *redis.Script, keys []string, args ...any) (any, error) {
	keys, args = r.marked(keys, args)
	return s.Run(ctx, r.client, keys, args...).Result()
}

// write is run for a script that writes; it also waits for the replicas. WAIT concerns
// the writes of its connection, so both are sent in one pipeline.
func (r *Redis) write(ctx context.Context, s *redis.Script, keys []string, args ...any) (any, error) {
	if r.config.WaitReplicas == 0 {
		return r.run(ctx, s, keys, args...)
	}
	keys, args = r.marked(keys, args)
	deadline, _ := ctx.Deadline()
	patience := max(time.Until(deadline)-redisAnswer, time.Millisecond) // 0 would mean forever
	// With the text of the script: after an unknown hash, WAIT would wait for nothing.
	pipe := r.client.Pipeline()
	result := s.Eval(ctx, pipe, keys, args...)
	replicas := redis.NewIntCmd(ctx, "WAIT", r.config.WaitReplicas, patience.Milliseconds())
	_ = pipe.Process(ctx, replicas) // queues it
	_, _ = pipe.Exec(ctx)           // each command has its error
	value, err := result.Result()
	if err != nil {
		return nil, err
	}
	if n, err := replicas.Result(); err != nil {
		return nil, err
	} else if n < int64(r.config.WaitReplicas) {
		return nil, fmt.Errorf("%d replicas have the write in time; waitReplicas is %d", n, r.config.WaitReplicas)
	}
	return value, nil
}

func (r *Redis) marked(keys []string, args []any) ([]string, []any) {
	return append([]string{r.config.Prefix + "mark"}, keys...),
		append([]any{redisMark + strconv.Itoa(redisVersion)}, args...)
}

func (r *Redis) countKey(key string) string { return r.config.Prefix + "c:" + key }
func (r *Redis) valueKey(key string) string { return r.config.Prefix + "v:" + key }
