# Which agents speak for which instances, by the audit log:  jq -rnf agents.jq audit.log
#
# It prints how many instances each agent named, and each instance that more than one agent named.
reduce (inputs | select(.door == "metadata" and .instance_id != "")) as $line ({};
  .[$line.instance_id][$line.peer | sub(":[0-9]+$"; "")] = true)
| map_values(keys)
| ([.[][]] | group_by(.) | sort_by(-length)[] | "\(.[0]) named \(length) instances"),
  (to_entries[] | select(.value | length > 1) | "\(.key) was named by \(.value | join(" "))")
