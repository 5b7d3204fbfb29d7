#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
// Sun, sky, the shadows of clouds, and haze that takes the distance away.
layout(set = 1, binding = 0) uniform sampler2D picture;

layout(location = 0) in vec2 texel;
layout(location = 1) in vec3 place;
layout(location = 2) in vec3 normal;
layout(location = 0) out vec4 colour;

void main()
{
    vec3 surface = texture(picture, texel).rgb;
    vec3 towards_sun = frame.sun.xyz;
    vec2 shadow_at = place.xz + towards_sun.xz / towards_sun.y * 2.0;
    float shadow = clouds(shadow_at);
    float lit = max(dot(normalize(normal), towards_sun), 0.0) * mix(1.0, 0.35, shadow);
    vec3 light = vec3(1.00, 0.90, 0.72) * lit * 1.55 + vec3(0.30, 0.36, 0.46);
    vec3 ray = place - frame.eye.xyz;
    float far = length(ray);
    float thick = 1.0 - exp(-pow(far * 0.070, 1.7));
    colour = vec4(mix(surface * light, haze(ray / far), thick), 1);
}
